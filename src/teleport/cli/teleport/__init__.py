"""teleport: the daemon, and what belongs to it on a host."""

from teleport.cli.teleport.command import main

__all__ = ["main"]
