"""`tsh`, for users."""

from teleport.cli.tsh.root import main

__all__ = ["main"]
