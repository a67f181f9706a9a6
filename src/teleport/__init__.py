"""An access plane for servers and Kubernetes clusters: certificates, one proxy, roles, recordings, audit."""

__version__ = "0.1.0"
