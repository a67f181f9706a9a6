"""Kubernetes as a daemon runs it: access at its proxy, its own Kubernetes service, and the ways between both."""
