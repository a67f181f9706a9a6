"""The node service: SSH sessions on a host, started by the launcher, recorded and audited."""
