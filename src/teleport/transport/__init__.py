"""Listeners, TLS contexts, dialing, and streams inside streams: the outside world starts here."""
