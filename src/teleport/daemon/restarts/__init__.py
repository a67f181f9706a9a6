"""Two processes of one host: what is handed over, who does what meanwhile, and leaving gracefully."""
