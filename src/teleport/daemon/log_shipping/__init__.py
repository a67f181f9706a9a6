"""The daemon's log at receivers elsewhere (`teleport.log.ship`): by syslog over TLS or HTTPS, from a bounded spool."""
