"""Every bound of the fast transport, in one place, with its arithmetic. What happens at a bound is said beside it.

Three ends are possible: the stream is answered or reset and the connection goes on; the connection gets GOAWAY with
ENHANCE_YOUR_CALM and is closed; the new connection is not taken. The worst case of memory for one connection is
`connection_window + large_messages_bytes + inflated_bytes` (8 + 8 + 8 MiB) plus one frame and one header block.
"""

from dataclasses import dataclass

KIB = 1_024
MIB = 1_024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one connection; a test lowers one to reach it.

    Attributes:
        streams_max: streams open at once, and handlers at work, counted until the work ends. The next one is refused.
        resets_max: RST_STREAM received, and as many sent, for streams not yet answered: a bucket each. Then the connection ends.
        resets_per_s: how fast each bucket refills.
        block_bytes_max: a compressed header block with its CONTINUATION frames. Then the connection ends.
        continuations_max: CONTINUATION frames of a block: 8 x 16 KiB hold any block allowed. Then the connection ends.
        block_whole_within_s: from HEADERS to END_HEADERS. Then the connection ends.
        size_updates_max: table-size updates of a block (RFC 7541 section 4.2 needs two). Then the connection ends.
        header_list_bytes_max: names and values and 32 each (RFC 9113 section 6.5.2). Then RESOURCE_EXHAUSTED, or HTTP 431.
        header_fields_max: Envoy sends about 15; bounds the decoder's work for blocks of one-byte fields. Then the stream is reset.
        blocks_unshrunk_max: blocks decoded by the library: as many as streams may have begun until our settings are acknowledged.
        frame_bytes_max: SETTINGS_MAX_FRAME_SIZE, its default and least value. Then the connection ends.
        message_bytes_max: a message of a unary call, also once inflated. Then the call is RESOURCE_EXHAUSTED.
        stream_message_bytes_max: a message of a client-streaming call (an access log entry with its headers).
        stream_window: what a stream may send before it is read: one whole unary message, its prefix, and 1 KiB for odd framing.
        connection_window: what all streams may send before it is read: 32 of the largest messages. Never under 65,535.
        large_messages_bytes: messages above `message_bytes_max` received at once: two of the largest. Then RESOURCE_EXHAUSTED.
        inflated_bytes: inflated messages held by running handlers. Then RESOURCE_EXHAUSTED.
        control_frames_queued_max: answers to control frames that the peer has not read. Then the connection ends.
        pings_max: PING, and as many SETTINGS, in a bucket each. Then the connection ends.
        pings_per_s: 100 in 10 seconds. gRPC's own bandwidth probes are at most 10 a second.
        noise_max: frames that ask for nothing (WINDOW_UPDATE, PRIORITY, unknown types) in half a second, beyond what new streams
            explain: four for each stream that may be open. They cost 1 us each. Then the connection ends.
        noise_per_stream: a client updates the window of a stream and of the connection, and may prioritise: 8 is twice that.
        settings_entries_max: in one SETTINGS frame; six are defined, and greased ones exist. Then the connection ends.
        preface_within_s: from the connection's start to the client's SETTINGS. Then it is closed.
        request_whole_within_s: from a unary call's HEADERS to its message. Then the stream is reset.
        answer_read_within_s: an answer the peer's window does not let out. Then the stream is reset.
        outbox_bytes_max: queued answers of a server-streaming call before its handler is paused.
        turn_bytes: input handled before other connections get a turn: about 500 of the smallest requests, 10 ms.
        turn_bytes_unshrunk: the same while the library decodes header blocks, which costs up to 1.5 ms a KiB.
    """

    streams_max: int = 1_024
    resets_max: int = 1_000
    resets_per_s: float = 33.0
    block_bytes_max: int = 16 * KIB
    continuations_max: int = 8
    block_whole_within_s: float = 5.0
    size_updates_max: int = 2
    header_list_bytes_max: int = 8 * KIB
    header_fields_max: int = 100
    blocks_unshrunk_max: int = 1_024
    frame_bytes_max: int = 16_384
    message_bytes_max: int = 256 * KIB
    stream_message_bytes_max: int = 4 * MIB
    stream_window: int = 256 * KIB + 5 + KIB
    connection_window: int = 8 * MIB
    large_messages_bytes: int = 8 * MIB
    inflated_bytes: int = 8 * MIB
    control_frames_queued_max: int = 1_000
    pings_max: int = 100
    pings_per_s: float = 10.0
    noise_max: int = 4_096
    noise_per_stream: int = 8
    settings_entries_max: int = 32
    preface_within_s: float = 5.0
    request_whole_within_s: float = 30.0
    answer_read_within_s: float = 30.0
    outbox_bytes_max: int = 64 * KIB
    turn_bytes: int = 32 * KIB
    turn_bytes_unshrunk: int = 4 * KIB


#: Connections of one worker. The next one is closed at once.
CONNECTIONS_MAX = 256
#: Digits of a grpc-timeout (gRPC over HTTP/2, `TimeoutValue`).
TIMEOUT_DIGITS_MAX = 8
#: Header blocks remembered whole, and shapes of blocks with fields that change; a connection has its own.
KNOWN_BLOCKS_MAX = 512
KNOWN_SHAPES_MAX = 8


class Bucket:
    """A token bucket that is given the time. `take` is False once it is empty."""

    __slots__ = ("_capacity", "_level", "_per_s", "_since")

    def __init__(self, capacity: float, per_s: float, now: float) -> None:
        self._capacity = capacity
        self._per_s = per_s
        self._level = float(capacity)
        self._since = now

    def take(self, now: float) -> bool:
        level = min(self._capacity, self._level + (now - self._since) * self._per_s)
        self._since = now
        is_taken = level >= 1.0
        self._level = level - 1.0 if is_taken else level
        return is_taken
