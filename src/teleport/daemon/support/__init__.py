"""What somebody who helps has to see of a host, and nothing secret: collected, scrubbed, packed.

Closed by default: settings are told field by field (`facts`), what others wrote is scrubbed (`scrub`), and nothing is
written in which a secret of this host is found after all (`bundle`).
"""
