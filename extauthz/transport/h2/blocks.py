"""From a header block to a request: by the hpack library until the peer's table is empty, then from memory or by our own decoder.

With a connection's first call we announce SETTINGS_HEADER_TABLE_SIZE = 0. Until the peer has acknowledged that and its table is
empty, a block may refer to earlier ones, so every block must be decoded in order and none may be remembered. From then on blocks
stand for themselves.

A header list over its bound is answered when it is at most twice that; beyond, decoding stops where it is.
"""

from collections.abc import Mapping

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from extauthz.transport.h2 import header_block
from extauthz.transport.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault, StreamFault
from extauthz.transport.h2.header_block import FIELD_OVERHEAD
from extauthz.transport.h2.known_blocks import KnownBlocks
from extauthz.transport.h2.limits import Limits
from extauthz.transport.h2.request import Request, Route, check_trailers, request_of


class Blocks:
    """The header blocks of one connection, each given once and in order.

    Attributes:
        is_shrunk: whether the peer's table is known to be empty for good.
        whole: blocks that were seen before; empty until then.
        find: a block that differs from one of them only where nobody reads; knows none until then.
    """

    def __init__(self, routes: Mapping[bytes, Route], limits: Limits) -> None:
        self._routes = routes
        self._limits = limits
        self._known = KnownBlocks(limits)
        self._library = Decoder(max_header_list_size=2 * limits.header_list_bytes_max)
        self._has_acknowledged = False
        self._decoded_by_library = 0
        self.is_shrunk = False
        self.whole: dict[bytes, Request] = self._known.whole
        self.find = self._known.find

    def acknowledged(self) -> None:
        """The peer has acknowledged our settings: it may use no table from its next block on, and must empty what it has."""
        self._has_acknowledged = True
        self._library.max_allowed_table_size = 0
        self.is_shrunk = not self._library.header_table.dynamic_entries

    def request(self, block: bytes) -> Request:
        """What a block asks for. Raises StreamFault when it is malformed, ConnectionFault when it is no block."""
        if not self.is_shrunk:
            fields = self._by_library(block)
            is_too_long = (
                sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in fields) > self._limits.header_list_bytes_max
            )
            return request_of(fields, self._routes, is_too_long=is_too_long)
        request = self.whole.get(block) or self._known.find(block)
        if request is None:
            decoded = header_block.decode(block, self._limits)
            is_too_long = decoded.list_bytes > self._limits.header_list_bytes_max
            pairs = [(field.name, field.value) for field in decoded.fields]
            request = request_of(pairs, self._routes, is_too_long=is_too_long)
            if not is_too_long and not request.is_of_one_call:
                self._known.learn(block, decoded, request)
        return request

    def trailers(self, block: bytes) -> None:
        """Check a block of trailers. Raises as `request` does."""
        if not self.is_shrunk:
            check_trailers(self._by_library(block))
        else:
            check_trailers([(field.name, field.value) for field in header_block.decode(block, self._limits).fields])

    def _by_library(self, block: bytes) -> list[tuple[bytes, bytes]]:
        self._decoded_by_library += 1
        if self._decoded_by_library > self._limits.blocks_unshrunk_max:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "our settings were not acknowledged in time")
        header_block.count_size_updates(block, self._limits)
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._library.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "header list too long") from error
        except (HPACKError, IndexError) as error:
            raise ConnectionFault(COMPRESSION_ERROR, "a header block is broken") from error
        if self._has_acknowledged:
            self.is_shrunk = True  # the library refuses a block that does not empty the table first
        if len(fields) > self._limits.header_fields_max:
            raise StreamFault(ENHANCE_YOUR_CALM, "too many header fields")
        return fields
