"""Certificates after they were issued: which live, when each was used, renewing them, ending them."""
