"""Protocols as values, without sockets or clocks: bytes in, values out, and the reverse."""
