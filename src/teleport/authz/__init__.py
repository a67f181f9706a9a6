"""Who may do what: pure functions from a request and a policy to a permit or a denial (style.md 3).

Nothing here reads a clock, a file or a socket; time, locks, labels and roles are handed in. What is not granted is
denied, deny beats allow, and whatever cannot be evaluated counts against the caller.
"""
