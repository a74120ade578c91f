"""A stream and the phases of its life.

    RECEIVING ─▶ RUNNING ─▶ SENDING ─▶ CLOSED
        │            └────────────────▶ CLOSED    the answer left in one write, or the stream was reset
        ├─▶ DISCARDING ─▶ SENDING                 the answer is known from the headers; the body is read and dropped
        └─▶ SENDING                               answered before the request was whole

A client-streaming call's handler works in RECEIVING already. A stream that is CLOSED while its handler works still counts against
`streams_max` until `Connection.release`.
"""

from typing import NamedTuple, Protocol, TypeVar

from extauthz.transport.h2.request import Kind, Request

RECEIVING, DISCARDING, RUNNING, SENDING, CLOSED = range(5)


class Stream:
    """One call. What only rare calls need stands on the class, so that making one is four assignments (0.1 us).

    Attributes:
        deadline: a time of the clock the connection is given; `math.inf` without one.
        held: octets of the connection's window that come back when the call's work has ended.
        spent, granted: octets received, and what the stream may send beyond `stream_window`; only kept off the quick path.
        body_bytes: octets of the body without padding, to compare with content-length.
        buffer: what came of a message that is not whole.
        credited: octets of the message being received that both windows were given in advance.
        reserved: octets of `large_messages_bytes` taken by this call; the connection's window was given as many.
        inflated: octets of `inflated_bytes` taken by messages of the running handler.
        unreturned: octets read by the handler for which the stream has no WINDOW_UPDATE yet.
        window: what WINDOW_UPDATE gave and DATA took, relative to the peer's initial window.
        outbox: DATA that no window lets out; `tail` is the frame that ends the stream after it, b"" an END_STREAM flag on the DATA.
        is_whole: whether END_STREAM came; only kept off the quick path, where RUNNING says it.
        is_half_answered: whether the answer was begun before the request was whole.
        age: slow ticks spent waiting for the peer.
    """

    held: int = 0
    spent: int = 0
    granted: int = 0
    body_bytes: int = 0
    buffer: bytearray | None = None
    credited: int = 0
    reserved: int = 0
    inflated: int = 0
    unreturned: int = 0
    window: int = 0
    outbox: bytearray | None = None
    tail: bytes | None = None
    was_empty: bool = False
    has_headers: bool = False
    is_whole: bool = False
    is_half_answered: bool = False
    age: int = 0

    def __init__(self, stream_id: int, request: Request, deadline: float, phase: int) -> None:
        self.id = stream_id
        self.request = request
        self.deadline = deadline
        self.phase = phase

    def has_work(self) -> bool:
        """Whether a handler works for it."""
        return self.phase == RUNNING or (self.phase == RECEIVING and self.request.kind is Kind.CLIENT_STREAM)


class Message(NamedTuple):
    """A message of a client-streaming call.

    Attributes:
        wire_bytes: its octets with the prefix, as they came.
        credited: how many octets the windows were given for it in advance.
        inflated: octets it takes of `inflated_bytes`; 0 when it was not compressed.
    """

    data: bytes
    wire_bytes: int
    credited: int
    inflated: int


S = TypeVar("S", bound=Stream)


class Calls(Protocol[S]):
    """What runs the handlers. It is called in the middle of a read, may answer at once, and never raises."""

    def new_stream(self, stream_id: int, request: Request, deadline: float, phase: int, /) -> S: ...
    def start(self, stream: S, message: bytes, /) -> None:
        """A unary or server-streaming call is whole."""

    def open(self, stream: S, /) -> None:
        """A client-streaming call begins; `receive` brings its messages, `end` says that there are no more."""

    def receive(self, stream: S, message: Message, /) -> None: ...
    def end(self, stream: S, /) -> None: ...
    def cancel(self, stream: S, /) -> None:
        """The stream is gone; its handler's work must end, and then `Connection.release` be called."""

    def writable(self, stream: S, /) -> None:
        """The outbox of a server-streaming call is empty again."""
