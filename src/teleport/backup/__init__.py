"""Backups of a cluster: an archive of its state, log and recordings, encrypted (`docs/backup-format.md`)."""
