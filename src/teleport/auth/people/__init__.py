"""Users: logging in, invitations, their devices, and that one administrator remains."""
