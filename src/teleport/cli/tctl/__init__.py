"""tctl: administration of a cluster, on an auth server or from anywhere with the rights for it (docs/tctl.md)."""

from teleport.cli.tctl.command import main

__all__ = ["main"]
