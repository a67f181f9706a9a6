"""How each service of a daemon starts, on the `Ground` that all of them share."""
