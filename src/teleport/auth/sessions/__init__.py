"""Sessions that run: which are open, what nodes tell of them, how many a user may have."""
