"""What makes a Redis a record of ours: the identity and the marker of every partition.

A sidecar that finds no key and no marker knows that Redis was emptied, and answers 503 instead of teaching a client that its key is
bad. So markers are written once, on an empty Redis, and never to fill a hole.
"""

from extauthz import keyspace
from extauthz.errors import BadConfig, Problem
from extauthz.record.server import Emptied, Server

#: Kinds of keys that a sidecar writes by itself, also into an emptied Redis; all others are the record's.
_SIDECARS_OWN = frozenset({"n", "breaker", "probe"})


async def prepare(server: Server) -> None:
    """Make an empty Redis a record; do nothing when it is one.

    Raises:
        Emptied: it holds keys of ours and no identity.
        BadConfig: it may evict what it holds.
    """
    if await _is_record(server):
        return
    policy = (await server.execute("INFO", "memory")).get("maxmemory_policy", "")
    if policy != "noeviction":
        raise BadConfig([Problem(f"Redis at {server.where}", 0, f"maxmemory-policy is {policy}", "noeviction")])
    # Asked again: what was found may be another command's, which began on the same empty Redis and is ahead.
    if await _holds_a_record(server) and not await _is_record(server):
        raise Emptied("keys of ours are here and the record's identity is not")
    await server.execute_all([("SET", keyspace.marker(number), 1, "NX") for number in range(keyspace.PARTITIONS)])
    await server.execute("SET", keyspace.server_identity(), 1, "NX")


async def _is_record(server: Server) -> bool:
    return bool(await server.execute("EXISTS", keyspace.server_identity()))


async def _holds_a_record(server: Server) -> bool:
    """Markers alone are no record: the setup before this one may have been cut off."""
    cursor = 0
    while True:
        cursor, names = await server.execute("SCAN", cursor, "MATCH", "xa:*", "COUNT", 1_000)
        kinds = {name.split(b":")[2].decode() for name in names if name.count(b":") >= 2}
        if kinds - _SIDECARS_OWN - {"marker"}:
            return True
        if not int(cursor):
            return False
