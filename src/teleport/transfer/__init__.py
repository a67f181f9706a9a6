"""Files moved over SFTP, as clients of a host's subsystem: for tsh, and for browsers at the proxy."""
