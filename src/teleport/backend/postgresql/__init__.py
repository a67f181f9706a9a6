"""Storage in a PostgreSQL database: for any number of auth servers.

`settings` may be imported anywhere; `engine` loads asyncpg (the extra `postgresql`), so it is imported by whoever opens
a storage of this type, when it does: `postgresql_backend` of `teleport.backend.postgresql.load`.
"""
