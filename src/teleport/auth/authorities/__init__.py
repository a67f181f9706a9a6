"""The cluster's authorities: their private keys, the one module that signs with them, and their rotation."""
