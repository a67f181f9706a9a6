"""The proxy service: what leads a client to its target."""
