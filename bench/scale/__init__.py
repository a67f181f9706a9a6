"""Many hosts behind reverse tunnels, simulated on one machine: `make bench-scale N=1000`.

One auth and one proxy run as their own daemons. The hosts live in a few processes (`agents`): each has a host
certificate of its own, a real tunnel agent, a real node service, and announces itself as a host does. `clients`
connects to them through the proxy. `estate` makes the cluster and the certificates, `run` puts it together and prints.
"""
