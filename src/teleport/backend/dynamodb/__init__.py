"""Storage in a table of Amazon DynamoDB.

`settings` is what the configuration says; `load` gives the engine. Copies of audit events speak to a table
of their own by `table`, `making` and `refusals`. Nothing else here is for others, and only the engine, what it is made
of, and those copies load the client library.
"""
