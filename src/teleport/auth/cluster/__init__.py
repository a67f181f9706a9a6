"""The cluster as a whole: its first start, settings, status, backups, and the repair of a stopped one."""
