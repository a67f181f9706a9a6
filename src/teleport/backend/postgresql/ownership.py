"""Whose the tables are: nobody is spoken to through what another user of the database has laid out.

Who owns a schema or a table reads and changes what is in it, and whoever may make functions, triggers or operators
there has them run by whoever writes. PostgreSQL grants to others more than one expects (up to 14 everybody may make
things in the schema `public`), so it is looked at before anything in the schema is used. Those who are trusted are we,
the roles that we are a member of, and superusers, against whom nothing helps.

Nothing here is looked up by the search path, which names that schema: all is written out, and of exactly these types.
"""

from __future__ import annotations

from typing import Final

from teleport.backend.postgresql.servers import Servers, Session
from teleport.errors import AccessDenied

_STRANGERS: Final = """
    WITH RECURSIVE ours AS (
        SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
        UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN ours ON m.member = ours.oid
    ), trusted AS (
        SELECT oid FROM ours UNION ALL SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolsuper
    ), believed AS (
        SELECT oid FROM trusted
        UNION ALL SELECT r.oid FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
        WHERE r.rolname = 'pg_database_owner'::pg_catalog.name AND d.datname = pg_catalog.current_database()
        AND d.datdba IN (SELECT oid FROM trusted)
    ), place AS (
        SELECT n.oid, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n WHERE n.nspname = $1::pg_catalog.name
    ), things AS (
        SELECT c.oid, c.relname AS name, c.relowner AS owner FROM pg_catalog.pg_class c, place
        WHERE c.relnamespace = place.oid
    ), found AS (
        SELECT nspowner AS who, 'owns the schema'::pg_catalog.text AS what FROM place
        UNION ALL SELECT a.grantee, 'may make things in the schema'
        FROM place, LATERAL pg_catalog.aclexplode(place.nspacl) a
        WHERE a.privilege_type = 'CREATE'::pg_catalog.text
        UNION ALL SELECT owner, 'owns a table in the schema' FROM things
        UNION ALL SELECT a.grantee, 'may change a table in the schema'
        FROM things JOIN pg_catalog.pg_class c ON c.oid = things.oid, LATERAL pg_catalog.aclexplode(c.relacl) a
        WHERE NOT (a.privilege_type = 'SELECT'::pg_catalog.text AND a.grantee IN (SELECT oid FROM pg_catalog.pg_roles))
        UNION ALL SELECT p.proowner, 'owns a function in the schema' FROM pg_catalog.pg_proc p, place
        WHERE p.pronamespace = place.oid
        UNION ALL SELECT o.oprowner, 'owns an operator in the schema' FROM pg_catalog.pg_operator o, place
        WHERE o.oprnamespace = place.oid
        UNION ALL SELECT p.proowner, 'owns a trigger of a table in the schema'
        FROM pg_catalog.pg_trigger t JOIN things ON t.tgrelid = things.oid
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    )
    SELECT r.rolname AS name, found.what AS what FROM found LEFT JOIN pg_catalog.pg_roles r ON r.oid = found.who
    WHERE NOT EXISTS (SELECT 1 FROM believed WHERE believed.oid = found.who) LIMIT 1
"""


async def check_owners(servers: Servers, session: Session) -> None:
    """Raises `AccessDenied` when somebody else could read or change what is stored by rights in the schema."""
    row = await session.row(_STRANGERS, servers.schema)
    if row is None:
        return
    who = "everybody" if row["name"] is None else f"the role {row['name']}"
    raise AccessDenied(
        f"cannot open the storage in PostgreSQL ({servers.where}): {who} {row['what']} {servers.schema}, and so could "
        "get at the keys of the cluster's authorities",
        hint=f"name a schema that this user alone owns (CREATE SCHEMA ... AUTHORIZATION {servers.user}), or take the "
        "rights of others away: psql -c '\\dn+' -c '\\dp'",
    )
