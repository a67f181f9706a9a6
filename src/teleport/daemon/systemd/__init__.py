"""The units that run the daemon under systemd, and what systemd says of them."""
