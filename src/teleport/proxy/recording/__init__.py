"""Sessions that end at the proxy: it is the server of the client and the client of the host, and records in between."""
