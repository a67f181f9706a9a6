"""Stand-ins for the clock, the network and other parts of the world; only tests import them."""
