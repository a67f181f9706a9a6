"""Copying files between this machine and hosts: the copier, its two kinds of side, and SFTP below them."""
