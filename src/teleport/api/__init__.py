"""What services and commands say to auth: the messages, the table of routes, and the two clients.

Auth serves these routes on 3025 by HTTPS with mutual TLS 1.3 and JSON (decision 4 of the design); it can be asked
with curl and a certificate. `routes` is the one table that server, clients, tests and documentation read.
"""
