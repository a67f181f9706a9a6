"""What a daemon tells whoever watches over it: whether it lives and serves (`diag`), and its numbers (`metrics`).

A daemon without a diagnostics listener loads `diag`, `metrics` and `tunnel_metrics` alone.
"""
