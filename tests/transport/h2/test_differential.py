"""Promise 11: on generated frame sequences the core and the `h2` library see the same calls and refuse the same frames.

Both are fed frame by frame, and what each says to a frame is compared: the bodies it has seen, the code it refused with. A sequence
ends when one of them ends its connection. The refusals in which they differ, and why ours is right, are the table EXPLAINED.
"""

import random

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest

from extauthz.transport.h2 import frames
from extauthz.transport.h2.frames import (
    COMPRESSION_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
)
from tests.transport.core import CHECK, COLLECT, HELLO, SETTINGS_ACK, Core, fields, goaway_code, literal_block, parse

ANY_ID = (0, 1, 1, 1, 3, 3, 3, 5, 5, 7)
ODD_ID = (2, 9, 99, 2**31 - 1)

#: (frame type, our code, the library's code; None: it goes on) -> why they differ.
EXPLAINED: dict[tuple[int, int | None, int | None], str] = {
    (frames.PUSH_PROMISE, PROTOCOL_ERROR, None): "a client cannot push (RFC 9113 section 8.4); h2 waits for its CONTINUATION",
    (frames.PUSH_PROMISE, PROTOCOL_ERROR, FRAME_SIZE_ERROR): "the same; h2 looks at the size first",
    (frames.SETTINGS, FRAME_SIZE_ERROR, PROTOCOL_ERROR): "an acknowledgement with entries is a FRAME_SIZE_ERROR (section 6.5)",
    (frames.CONTINUATION, PROTOCOL_ERROR, STREAM_CLOSED): "CONTINUATION without an open block is a PROTOCOL_ERROR (section 6.10)",
    (frames.RST_STREAM, PROTOCOL_ERROR, None): "RST_STREAM of an idle stream is an error of the connection (section 6.4)",
    (frames.RST_STREAM, FRAME_SIZE_ERROR, PROTOCOL_ERROR): "stream 0 and a wrong size at once: either may be said",
    (frames.WINDOW_UPDATE, None, PROTOCOL_ERROR): "of nothing, for a stream that is closed: such frames are ignored (section 5.1)",
    (frames.DATA, None, STREAM_CLOSED): "what comes on a stream that we have reset is ignored (section 5.1)",
    (frames.HEADERS, None, STREAM_CLOSED): "the same",
    (frames.HEADERS, COMPRESSION_ERROR, PROTOCOL_ERROR): "a block that does not decode is a COMPRESSION_ERROR (section 4.3)",
    (frames.HEADERS, STREAM_CLOSED, PROTOCOL_ERROR): "a block that does not decode, on a closed stream: either may be said",
    (frames.HEADERS, PROTOCOL_ERROR, STREAM_CLOSED): "an id that was left out is unexpected, a PROTOCOL_ERROR (section 5.1.1)",
}


#: Payloads of SETTINGS: most are sound.
SETTINGS = (
    *(b"", b"\0\2\0\0\0\0", b"\0\4\0\0\1\0", b"\0\5\0\0\x40\0", b"\0\x99\1\2\3\4", b"\0\3\0\0\0\0", b"\0\1\0\0\0\0") * 3,
    b"\0\2\0\0\0\2",
    b"\0\4\x80\0\0\0",
    b"\0\5\0\0\0\1",
)


class Reference:
    """The h2 library as a server with our settings."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: 1_024,
                codes.INITIAL_WINDOW_SIZE: 263_173,
                codes.MAX_HEADER_LIST_SIZE: 8_192,
                codes.MAX_FRAME_SIZE: 16_384,
            },
        )
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(8 * 2**20 - 65_535)
        self.connection.clear_outbound_data_buffer()
        self.bodies: dict[int, bytes] = {}
        self.is_ended = False

    def sent(self) -> list[tuple[int, int]]:
        """Type and code of the frames it sent that carry one."""
        out = parse(self.connection.data_to_send())
        return [(kind, int.from_bytes(payload[-4:], "big")) for kind, _, _, payload in out if kind == frames.RST_STREAM]

    def feed(self, data: bytes) -> int | None:
        """The code this frame was refused with, whether for its stream or for the connection."""
        try:
            events = self.connection.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.is_ended = True
            return int(error.error_code)
        refused = next((code for kind, code in self.sent() if kind == frames.RST_STREAM), None)
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            elif isinstance(event, h2.events.StreamReset) and not event.remote_reset:
                refused = int(event.error_code)
        return refused


class Ours:
    """The core, with handlers that never answer."""

    def __init__(self) -> None:
        self.core = Core(reply=None)
        self.core.output()

    def feed(self, data: bytes) -> int | None:
        found = self.core.feed(data)
        resets = list(self.core.resets(found).values())
        return goaway_code(found) if self.core.connection.closing else resets[-1] if resets else None

    def bodies(self) -> dict[int, bytes]:
        seen: dict[int, bytes] = {}
        for stream_id, data in [*self.core.started, *self.core.received]:
            seen[stream_id] = seen.get(stream_id, b"") + b"\0" + len(data).to_bytes(4, "big") + data
        for stream in self.core.connection.streams.values():
            if stream.buffer:
                seen[stream.id] = seen.get(stream.id, b"") + stream.buffer
        return seen


class Generator:
    """Frame sequences of a client that mostly behaves."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.open_unary: list[int] = []
        self.open_stream: list[int] = []
        self.next_id = 1

    def frame(self) -> tuple[int, bytes]:
        """Type and bytes of the next frame; a header block may be two."""
        pick = self.random.random()
        if pick < 0.40:
            return frames.HEADERS, self.call()
        if pick < 0.75 and (self.open_unary or self.open_stream):
            return frames.DATA, self.data()
        return self.other()

    def call(self) -> bytes:
        source = self.random
        stream_id = self.next_id
        self.next_id += 2 if source.random() < 0.9 else 4
        if source.random() < 0.01:
            stream_id += 1  # even: a client may not (section 5.1.1)
        path = source.choice([CHECK, COLLECT])
        (self.open_unary if path == CHECK else self.open_stream).append(stream_id)
        pairs = fields(path)
        if source.random() < 0.04:
            pairs = source.choice(
                [
                    [*pairs, ("connection", "close")],
                    [*pairs, ("x-Upper", "1")],
                    [*pairs, (":path", "/")],
                    [pair for pair in pairs if pair[0] != ":path"],
                    [("te", "trailers"), *pairs],
                    [*pairs, ("te", "gzip")],
                    [*pairs, (":status", "200")],
                ]
            )
        return self.block(stream_id, literal_block(pairs), 0)

    def block(self, stream_id: int, block: bytes, flags: int) -> bytes:
        source = self.random
        head = b""
        if source.random() < 0.15:
            flags |= frames.PRIORITISED
            head = source.choice([0, 1, stream_id if source.random() < 0.2 else 11]).to_bytes(4, "big") + b"\x10"
        tail = b""
        if source.random() < 0.15:
            flags |= frames.PADDED
            tail = b"\0" * source.randrange(20)
            head = bytes((len(tail),)) + head
        if source.random() < 0.15:
            cut = source.randrange(1, len(block) + 1)  # h2 refuses a first fragment of no octets, which section 6.2 allows
            first = frames.frame(frames.HEADERS, flags, stream_id, head + block[:cut] + tail)
            return first + frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[cut:])
        return frames.frame(frames.HEADERS, flags | frames.END_HEADERS, stream_id, head + block + tail)

    def data(self) -> bytes:
        source = self.random
        is_unary = bool(self.open_unary) and (not self.open_stream or source.random() < 0.5)
        stream_id = source.choice(self.open_unary if is_unary else self.open_stream)
        body = source.randbytes(source.randrange(30))
        payload = b"\0" + len(body).to_bytes(4, "big") + body
        flags = frames.END_STREAM if is_unary or source.random() < 0.3 else 0
        if flags:
            (self.open_unary if is_unary else self.open_stream).remove(stream_id)
        if source.random() < 0.2:
            padding = source.randrange(20)
            return frames.frame(frames.DATA, flags | frames.PADDED, stream_id, bytes((padding,)) + payload + b"\0" * padding)
        return frames.frame(frames.DATA, flags, stream_id, payload)

    def other(self) -> tuple[int, bytes]:
        source = self.random
        stream_id = source.choice(ANY_ID if source.random() < 0.9 else ODD_ID)
        kind = source.choice([2, 2, 3, 3, 4, 4, 4, 6, 6, 6, 8, 8, 8, 8, 8, 77, 77, source.choice([0, 1, 1, 5, 7, 9])])
        if kind == frames.HEADERS and self.open_stream:
            stream_id = source.choice(self.open_stream)
            flags = source.choice([frames.END_STREAM, frames.END_STREAM, 0])
            pairs = source.choice([[("x-end", "1")], [("x-end", "1")], [(":path", "/")]])
            return kind, frames.frame(kind, flags | frames.END_HEADERS, stream_id, literal_block(pairs))
        payload = {
            frames.DATA: b"\0\0\0\0\0",
            frames.HEADERS: literal_block(fields()),
            frames.PRIORITY: source.choice([1, 3, 11]).to_bytes(4, "big") + b"\1",
            frames.RST_STREAM: b"\0\0\0\x08",
            frames.SETTINGS: source.choice(SETTINGS),
            frames.PUSH_PROMISE: b"\0\0\0\2",
            frames.PING: b"12345678",
            frames.GOAWAY: b"\0\0\0\0\0\0\0\0",
            frames.WINDOW_UPDATE: source.choice([1, 1, 1, 1_000, 1_000, 0, 2**31 - 1]).to_bytes(4, "big"),
            frames.CONTINUATION: b"\x83",
            77: b"anything",
        }[kind]
        if kind in (frames.SETTINGS, frames.PING, frames.GOAWAY) and source.random() < 0.9:
            stream_id = 0
        flags = source.choice([0, 0, 0, 1]) if kind in (frames.SETTINGS, frames.PING) else frames.END_HEADERS * (kind == 1)
        if kind == frames.DATA and stream_id in self.open_unary:
            flags = frames.END_STREAM  # a second message would be a matter of gRPC
            self.open_unary.remove(stream_id)
        if source.random() < 0.04 and kind != frames.DATA:
            payload = payload[: source.randrange(len(payload) + 1)]
        return kind, frames.frame(kind, flags, stream_id, payload)


def run(seed: int) -> tuple[str, int]:
    """What the two disagree about, "" for nothing; and the frames they agreed on."""
    generator = Generator(seed)
    ours, reference = Ours(), Reference()
    for side in (ours, reference):
        side.feed(HELLO + SETTINGS_ACK)
    sent = []
    for count in range(generator.random.randrange(2, 40)):
        kind, data = generator.frame()
        sent.append(data.hex(" ", 1))
        mine, its = ours.feed(data), reference.feed(data)
        is_explained = (kind, mine, its) in EXPLAINED
        if (mine, its) == (None, STREAM_CLOSED):
            is_explained = is_explained and int.from_bytes(data[5:9], "big") in ours.core.connection._recent
        if mine != its and not is_explained:
            return f"seed {seed}, frame type {kind}: ours {mine}, h2 {its}; {ours.core.connection.closing!r}\n  " + "\n  ".join(
                sent
            ), count
        if reference.is_ended or ours.core.connection.closing or mine != its or kind == frames.GOAWAY:
            break  # h2 takes a client's GOAWAY for the end; ours goes on with its open streams (section 6.8)
        if ours.bodies() != reference.bodies:
            return f"seed {seed}: bodies {ours.bodies()} and {reference.bodies}\n  " + "\n  ".join(sent), count
    return "", len(sent)


@pytest.mark.prove(11)
def test_both_see_the_same_calls_and_refuse_the_same_frames(proving: bool) -> None:
    total = 100_000 if proving else 1_000
    frames_seen = 0
    for seed in range(total):
        unexplained, count = run(seed)
        frames_seen += count
        assert unexplained == ""
    print(f"\n  {total} sequences, {frames_seen} frames, 0 unexplained")
    assert frames_seen > 3 * total
