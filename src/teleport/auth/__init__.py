"""The auth service: the authorities, who may log in or join, and the API on 3025 that everything else asks."""
