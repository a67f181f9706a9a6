"""Reverse tunnels: which connections a host keeps to its proxies (`pool`), the end that dials out (`agent`), the end
at the proxy (`server`, `registry`), and what they say to each other (`messages`)."""
