"""The web service: what the proxy's HTTPS listener serves to tsh, browsers and joining hosts."""
