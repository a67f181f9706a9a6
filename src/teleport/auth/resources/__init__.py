"""Resources over the API: reading them, and what goes along when one is stored or removed."""
