"""`kubectl` through the proxy, against the same `kubectl` straight to the API server, in one run.

The API server is `teleport.testing.kube_api`, in a process of its own; straight to it kubectl goes with the
certificate by which the proxy goes, and asks to act as the same user. Rounds alternate between the two, so that what
else happens on the machine falls on both. `get` is timed as the whole program runs, and once more as the request
alone, on a kept connection.
"""
