"""The one way a document gets into Redis: with its epoch, in one script, if nobody else wrote since it was read.

From the moment the script has run, every admission sees the new epoch. So a command that published is in force when it returns.
"""

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Generic, NamedTuple, TypeVar

import msgspec

from extauthz import keyspace
from extauthz.errors import Malformed, Missing
from extauthz.record.server import Command, Conflict, Damaged, Emptied, NoRecord, Server
from extauthz.tenants.documents import KeyDocument, TenantDocument, decode_key, decode_tenant, encode_key, encode_tenant
from extauthz.tenants.epochs import epoch_of

#: A publisher that loses the race this often gives up: each loss is somebody else's success, a command is milliseconds.
ATTEMPTS_MAX = 50
#: How long a publish waits for its replicas; it is in force without them.
WAIT_MS = 1_000
READ_AT_ONCE = 500

_PUBLISH = resources.files(__package__).joinpath("publish.lua").read_text()
_SET_ONCE = resources.files(__package__).joinpath("set_once.lua").read_text()
_IN_FORCE, _LOST, _EMPTIED = 1, 0, -1

Document = TypeVar("Document", TenantDocument, KeyDocument)


class Place(NamedTuple, Generic[Document]):
    """Where a document lives, and how its bytes are read and written."""

    title: str
    partition: int
    epoch: bytes
    document: bytes
    members: bytes
    member: str
    encode: Callable[[Document], bytes]
    decode: Callable[[bytes], Document]


class Published(NamedTuple, Generic[Document]):
    """A document that is in force.

    Attributes:
        is_changed: False when it was in force already; nothing was written and no replica was asked.
        replicas: how many the server has.
        replicas_with_it: how many of them had it when the command returned.
    """

    document: Document
    is_changed: bool
    replicas: int
    replicas_with_it: int


def tenant_place(tenant_id: str) -> Place[TenantDocument]:
    """Where a tenant's document is."""
    number = keyspace.partition(tenant_id)
    return Place(
        f"tenant {tenant_id}",
        number,
        keyspace.tenant_epoch(tenant_id),
        keyspace.tenant_document(tenant_id),
        keyspace.tenants(number),
        tenant_id,
        encode_tenant,
        decode_tenant,
    )


def key_place(tenant_id: str, key_id: str) -> Place[KeyDocument]:
    """Where a key's document is: in its tenant's slot."""
    return Place(
        f"key {key_id}",
        keyspace.partition(tenant_id),
        keyspace.key_epoch(tenant_id, key_id),
        keyspace.key_document(tenant_id, key_id),
        keyspace.tenant_keys(tenant_id),
        key_id,
        encode_key,
        decode_key,
    )


async def read(server: Server, place: Place[Document]) -> Document:
    """The document in force. Raises Missing, and Damaged when it is there in part, or its partition is lost."""
    return (await read_all(server, [place]))[0]


async def read_all(server: Server, places: Sequence[Place[Document]]) -> list[Document]:
    """Documents in the order of their places, READ_AT_ONCE in a round trip. Raises as `read` does, for the first that is wrong."""
    documents: list[Document] = []
    for start in range(0, len(places), READ_AT_ONCE):
        batch = places[start : start + READ_AT_ONCE]
        rows = await server.execute_all(
            [("MGET", place.document, place.epoch, keyspace.marker(place.partition)) for place in batch]
        )
        for place, (data, epoch, marker) in zip(batch, rows, strict=True):
            if marker is None:
                raise await _emptied(server, place.partition)
            documents.append(_whole(place, data, epoch))
    return documents


async def create(server: Server, place: Place[Document], document: Document) -> Published[Document]:
    """Publish a document where there is none. Raises Conflict when there is one."""
    replicas = await _replicas(server)
    published = await _publish(server, place, b"", document, replicas)
    if published is None:
        raise Conflict(f"{place.title} exists already")
    return published


async def change(server: Server, place: Place[Document], edit: Callable[[Document], Document]) -> Published[Document]:
    """Publish the edited document with the next version, or nothing when the edit changes nothing.

    Args:
        edit: pure; called anew on what is in force for as long as others win the race, ATTEMPTS_MAX times. Raises Conflict then.
    """
    replicas = await _replicas(server)
    for _ in range(ATTEMPTS_MAX):
        current = await read(server, place)
        edited = edit(current)
        if edited == current:
            return Published(current, False, 0, 0)
        following = msgspec.structs.replace(edited, version=current.version + 1, epoch=b"")
        published = await _publish(server, place, current.epoch, following, replicas)
        if published is not None:
            return published
    raise Conflict(f"{place.title} is being changed by others all the time: try again")


async def set_once(server: Server, partition: int, key: bytes, value: str) -> None:
    """Write a value that never changes, in the slot of its partition. Raises Conflict when another is there."""
    reply = await server.execute("EVAL", _SET_ONCE, 2, keyspace.marker(partition), key, value)
    if reply == _EMPTIED:
        raise await _emptied(server, partition)
    if reply != _IN_FORCE:
        raise Conflict("a new key's id or digest is taken already: create another key")


async def _publish(
    server: Server, place: Place[Document], expected: bytes, document: Document, replicas: int
) -> Published[Document] | None:
    """None when somebody else wrote. WAIT follows the script on the same connection: it speaks of that one's writes."""
    data = place.encode(document)
    epoch = epoch_of(document.version, data)
    names: tuple[bytes, ...] = (keyspace.marker(place.partition), place.epoch, place.document, place.members)
    commands: list[Command] = [("EVAL", _PUBLISH, len(names), *names, expected, epoch, data, place.member)]
    if replicas:
        commands.append(("WAIT", replicas, WAIT_MS))
    replies = await server.execute_all(commands)
    reply = replies[0]
    if reply == _EMPTIED:
        raise await _emptied(server, place.partition)
    if reply == _LOST:
        return None
    return Published(msgspec.structs.replace(document, epoch=epoch), True, replicas, int(replies[1]) if replicas else 0)


async def _replicas(server: Server) -> int:
    return int((await server.execute("INFO", "replication")).get("connected_slaves", 0))


async def _emptied(server: Server, partition: int) -> Damaged:
    """What it means that a partition has no marker: never set up, or lost."""
    if await server.execute("EXISTS", keyspace.server_identity()):
        return Emptied(f"partition {partition} has no marker")
    return NoRecord(server.where)


def _whole(place: Place[Document], data: bytes | None, epoch: bytes | None) -> Document:
    if data is None and epoch is None:
        raise Missing(f"there is no {place.title}")
    if data is None or epoch is None:
        raise Emptied(f"{place.title} has half of its document")
    try:
        document = place.decode(data)
    except Malformed as error:
        raise Damaged(f"{place.title} is stored as something else: {error}") from error
    if document.epoch != epoch:
        raise Damaged(f"{place.title} has an epoch that is not its document's")
    return document
