"""Kubernetes access: `kubectl` comes with a certificate of this cluster, and its calls go on in the person's name."""
