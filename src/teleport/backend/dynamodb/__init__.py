"""Storage in a table of Amazon DynamoDB.

`settings` is what the configuration says; `load` gives the engine. Nothing else here is for others, and only the engine
and what it is made of load the client library.
"""
