"""A server's HTTP/2 connection: bytes and the time in, bytes and calls out.

`receive` is the loop over frames. Its two quick paths, a HEADERS frame whose block is known and a DATA frame that is a whole unary
message, make up all of Envoy's traffic and cost 2 us together; everything else goes through `_frame` to one method per frame type.
Nothing is logged here, and no object is made for a frame.
"""

from collections.abc import Callable, Mapping

from extauthz.transport.grpc_framing import PREFIX
from extauthz.transport.h2 import frames
from extauthz.transport.h2.blocks import Blocks
from extauthz.transport.h2.control import Control
from extauthz.transport.h2.frames import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from extauthz.transport.h2.limits import Limits
from extauthz.transport.h2.request import Kind, Request, Route
from extauthz.transport.h2.streams import DISCARDING, RECEIVING, RUNNING, SENDING, Calls, S
from extauthz.transport.seam import DEADLINE_EXCEEDED

_HEADER = frames.FRAME_HEADER.unpack_from
_PREFIX = PREFIX.unpack_from
#: Ranges of stream ids that a client left out; one more is its last.
_SKIPPED_MAX = 64
_NOTHING: dict[bytes, Request] = {}


class Connection(Control[S]):
    """One connection: the frame loop, header blocks, and what waits too long."""

    def __init__(self, calls: Calls[S], routes: Mapping[bytes, Route], limits: Limits, now: float) -> None:
        super().__init__(calls, Blocks(routes, limits), limits, now)
        self._skipped: list[tuple[int, int]] = []
        self._rest = bytearray()
        self._need = len(frames.PREFACE)
        self._has_preface = self._has_settings = False
        self._partial: _Partial | None = None
        self._since = now
        self._by_type: tuple[Callable[[int, int, bytes], None], ...] = (
            self._data,
            self._headers,
            self._priority,
            self._rst_stream,
            self._settings,
            self._push_promise,
            self._ping,
            self._goaway,
            self._window_update,
            self._stray_continuation,
        )
        self.out.append(
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: limits.streams_max,
                    frames.INITIAL_WINDOW_SIZE: limits.stream_window,
                    frames.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
                }
            )
        )
        self.out.append(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))

    @property
    def turn_bytes(self) -> int:
        """How much input to hand over at once, so that other connections get their turn."""
        return self.limits.turn_bytes if self._blocks.is_shrunk else self.limits.turn_bytes_unshrunk

    def receive(self, data: bytes, now: float) -> None:
        """Handle these bytes. Handlers that can answer at once have done so when it returns."""
        if self.closing:
            return
        self.now = now
        try:
            self._receive(data)
        except ConnectionFault as fault:
            self._end(fault.code, fault.why)

    def tick(self, now: float) -> None:
        """Answer the calls whose deadline has passed."""
        self.now = now
        for stream in [stream for stream in self.streams.values() if stream.deadline <= now and stream.phase < SENDING]:
            self.cut(stream, DEADLINE_EXCEEDED, "the deadline passed")

    def slow_tick(self, now: float, passed_s: float) -> None:
        """Every half second or so: what has waited too long for the peer, and the second step of a drain."""
        self.now = now
        self._noise = 0
        self._opened_before = self._opened
        try:
            self._check_waiting(now, passed_s)
        except ConnectionFault as fault:
            self._end(fault.code, fault.why)
        if self.is_draining and not self.is_refusing and now >= self._drained_at:
            self._refuse_from_now()

    def lost(self) -> None:
        """The peer is gone: every handler is cancelled."""
        self.closing = self.closing or "the peer is gone"
        for stream in list(self.streams.values()):
            self._drop(stream)

    def _receive(self, data: bytes) -> None:
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            rest.clear()
        position, end = 0, len(data)
        if not self._has_preface:
            position = self._preface(data)
        if self._partial is not None:
            position = self._continuations(data, position)
        streams, known, find = self.streams, self._whole_blocks(), self._blocks.find
        streams_max, frame_bytes_max = self.limits.streams_max, self.limits.frame_bytes_max
        while end - position >= 9:
            word, flags, stream_id = _HEADER(data, position)
            stop = position + 9 + (word >> 8)
            if stop > end:
                break
            kind = word & 0xFF
            if kind == 0 and flags == 1:  # DATA with END_STREAM
                stream = streams.get(stream_id)
                if stream is not None and stream.phase == RECEIVING and stream.request.is_plain and not stream.spent:
                    size = stop - position - 9
                    if size > 5 and _PREFIX(data, position + 9) == (0, size - 5) and size <= self._left:
                        self._left -= size
                        stream.held = size
                        stream.phase = RUNNING
                        self._calls.start(stream, data[position + 14 : stop])
                        position = stop
                        continue
            elif kind == 1 and flags == 4 and stream_id == self._next_id:  # HEADERS with END_HEADERS
                block = data[position + 9 : stop]
                request = known.get(block)
                if request is None and known is not _NOTHING and len(block) <= frame_bytes_max:
                    request = find(block)
                if request is not None and request.is_plain and len(streams) + self.lingering < streams_max:
                    self._next_id = stream_id + 2
                    streams[stream_id] = self._calls.new_stream(stream_id, request, self.now + request.timeout_s, RECEIVING)
                    position = stop
                    continue
            self._frame(kind, flags, stream_id & frames.STREAM_ID_MAX, data[position + 9 : stop])
            position = stop
            if self._partial is not None:
                position = self._continuations(data, position)
            known = self._whole_blocks()
        if position < end:
            self._keep(data, position)

    def _keep(self, data: bytes, position: int) -> None:
        """The beginning of a frame, until the rest comes."""
        self._rest += data[position:]
        self._need = 9
        if len(self._rest) >= 9:
            size = _HEADER(self._rest)[0] >> 8
            self._check_size(size)
            self._need += size

    def _check_size(self, size: int) -> None:
        if size > self.limits.frame_bytes_max:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame too large")

    def _preface(self, data: bytes) -> int:
        size = len(frames.PREFACE)
        if data[:size] != frames.PREFACE[: len(data)]:
            raise ConnectionFault(PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < size:
            self._need = size
            self._rest += data
            return len(data)
        self._has_preface = True
        return size

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A frame off the quick paths."""
        self._check_size(len(payload))
        if not self._has_settings:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the first frame must be SETTINGS")
            self._has_settings = True
        if kind >= len(self._by_type):
            self._count_noise()
            return
        try:
            self._by_type[kind](flags, stream_id, payload)
        except StreamFault as fault:
            self.reset(stream_id, fault.code)

    # -- header blocks

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS without a stream")
        start, stop = 0, len(payload)
        if flags & frames.PADDED:
            start, stop = _unpadded(payload)
        depends_on_itself = False
        if flags & frames.PRIORITISED:
            if stop - start < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS too short for a priority")
            depends_on_itself = int.from_bytes(payload[start : start + 4], "big") & frames.STREAM_ID_MAX == stream_id
            start += 5
        block = payload[start:stop]
        if flags & frames.END_HEADERS:
            self._block(stream_id, block, is_end=bool(flags & frames.END_STREAM))
        else:
            self._partial = _Partial(stream_id, bytearray(block), self.now, is_end=bool(flags & frames.END_STREAM))
            self._partial.check(self.limits)
        if depends_on_itself:
            raise StreamFault(PROTOCOL_ERROR, "a stream that depends on itself")

    def _continuations(self, data: bytes, position: int) -> int:
        """Frames while a header block is open: nothing but its CONTINUATION may come."""
        end = len(data)
        while (partial := self._partial) is not None and end - position >= 9:
            word, flags, stream_id = _HEADER(data, position)
            self._check_size(word >> 8)
            if word & 0xFF != frames.CONTINUATION or stream_id & frames.STREAM_ID_MAX != partial.stream_id:
                raise ConnectionFault(PROTOCOL_ERROR, "a header block was interrupted")
            stop = position + 9 + (word >> 8)
            if stop > end:
                break
            partial.add(data[position + 9 : stop], self.limits)
            position = stop
            if flags & frames.END_HEADERS:
                self._partial = None
                try:
                    self._block(partial.stream_id, bytes(partial.block), is_end=partial.is_end)
                except StreamFault as fault:
                    self.reset(partial.stream_id, fault.code)
        return position

    def _block(self, stream_id: int, block: bytes, *, is_end: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._trailers(stream, block, is_end=is_end)
            return
        if stream_id & 1 == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "a client's streams are odd")
        if stream_id < self._next_id:
            if stream_id not in self._recent:
                raise ConnectionFault(
                    PROTOCOL_ERROR if self._was_skipped(stream_id) else STREAM_CLOSED, "HEADERS on a closed stream"
                )
            self._blocks.trailers(block)
            return
        self._open(stream_id)
        request = self._blocks.request(block)
        if stream_id > self._refused_from:
            self._remember(stream_id)  # opened before the client heard that we drain: it knows that this was not processed
        elif len(self.streams) + self.lingering >= self.limits.streams_max:
            self.reset(stream_id, frames.REFUSED_STREAM)
        else:
            self._begin(stream_id, request, is_end=is_end)

    def _begin(self, stream_id: int, request: Request, *, is_end: bool) -> None:
        is_call = request.kind < Kind.REFUSED
        if request.kind is not Kind.HTTP and not self._has_announced:
            # Only now: a client that makes no calls keeps its table, as HTTP/2's own conformance tests expect (h2spec generic/5).
            self._has_announced = True
            self._unacknowledged += 1
            self.out.append(frames.settings({frames.HEADER_TABLE_SIZE: 0}))
        phase = RECEIVING if is_call else DISCARDING
        stream = self._calls.new_stream(stream_id, request, self.now + request.timeout_s, phase)
        self.streams[stream_id] = stream
        if request.kind is Kind.CLIENT_STREAM:
            self._calls.open(stream)
        if is_end:
            self._end_of_body(stream)

    def _trailers(self, stream: S, block: bytes, *, is_end: bool) -> None:
        """A second header block: trailers, which gRPC clients do not send, and which are checked and dropped."""
        self._blocks.trailers(block)
        if stream.phase not in (RECEIVING, DISCARDING):
            if not stream.is_half_answered:
                raise StreamFault(STREAM_CLOSED, "HEADERS after the end of the stream")
            stream.is_half_answered = not is_end
            return
        if not is_end:
            raise StreamFault(PROTOCOL_ERROR, "trailers must end the stream")
        self._end_of_body(stream)

    def _open(self, stream_id: int) -> None:
        """A new stream; lower ones that were never opened are closed by that (RFC 9113 section 5.1.1)."""
        if stream_id != self._next_id:
            if len(self._skipped) >= _SKIPPED_MAX:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too many stream ids left out")
            self._skipped.append((self._next_id, stream_id))
            self._skipped_ids += (stream_id - self._next_id) >> 1
        self._next_id = stream_id + 2

    def _was_skipped(self, stream_id: int) -> bool:
        return any(first <= stream_id < last for first, last in self._skipped)

    # -- the other frames

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._left -= size
        if self._left < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        if stream_id == 0 or self._is_idle(stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "DATA on no stream")
        start, stop = _unpadded(payload) if flags & frames.PADDED else (0, size)
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id not in self._recent:
                raise ConnectionFault(STREAM_CLOSED, "DATA on a closed stream")
            self._owed += size
            self._count_noise()
            return
        if start == stop:
            self._count_noise()
        self._body(stream, payload[start:stop], size - (stop - start), is_end=bool(flags & frames.END_STREAM))

    # -- waiting and ending

    def _check_waiting(self, now: float, passed_s: float) -> None:
        limits = self.limits
        if not self._has_settings and now - self._since > limits.preface_within_s:
            raise ConnectionFault(PROTOCOL_ERROR, "no preface in time")
        if self._partial is not None and now - self._partial.since > limits.block_whole_within_s:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block did not get whole in time")
        for stream in list(self.streams.values()):
            is_slow_request = stream.phase == DISCARDING or (
                stream.phase == RECEIVING and stream.request.kind is not Kind.CLIENT_STREAM
            )
            if not is_slow_request and not stream.outbox:
                continue
            stream.age += 1
            if stream.age * passed_s > (limits.request_whole_within_s if is_slow_request else limits.answer_read_within_s):
                self.reset(stream.id, frames.CANCEL)

    def _whole_blocks(self) -> dict[bytes, Request]:
        """What the quick path may look up: nothing once new streams are refused."""
        return _NOTHING if self.is_refusing else self._blocks.whole

    def _end(self, code: int, why: str) -> None:
        """GOAWAY, and every handler is cancelled."""
        self.closing = why
        self.out.append(frames.goaway(max(self._next_id - 2, 0), code, why))
        self.lost()


class _Partial:
    """A header block that is not whole."""

    __slots__ = ("block", "count", "is_end", "since", "stream_id", "was_empty")

    def __init__(self, stream_id: int, block: bytearray, since: float, *, is_end: bool) -> None:
        self.stream_id = stream_id
        self.block = block
        self.is_end = is_end
        self.since = since
        self.count = 0
        self.was_empty = not block

    def add(self, piece: bytes, limits: Limits) -> None:
        if not piece and self.was_empty:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "empty CONTINUATION in a row")
        self.was_empty = not piece
        self.count += 1
        self.block += piece
        self.check(limits)

    def check(self, limits: Limits) -> None:
        if self.count > limits.continuations_max or len(self.block) > limits.block_bytes_max:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block too large")


def _unpadded(payload: bytes) -> tuple[int, int]:
    """Where a padded payload's content begins and ends."""
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame without its length")
    stop = len(payload) - payload[0]
    if stop < 1:
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than frame")
    return 1, stop
