"""Hosts: joining and the tokens for it, presence, and hosts that keep their plain sshd."""
