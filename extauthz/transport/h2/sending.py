"""The half of a connection that writes: answers within the peer's windows, credit for what was read, resets.

Everything is appended to `out`; whoever owns the connection takes it with `take_output` once a turn.
"""

from typing import Generic

from extauthz.transport.h2 import answers, frames
from extauthz.transport.h2.frames import ENHANCE_YOUR_CALM, ConnectionFault
from extauthz.transport.h2.limits import Bucket, Limits
from extauthz.transport.h2.streams import CLOSED, RUNNING, SENDING, Calls, S

#: Reset streams whose frames may still be on the way; older ones are closed for good.
_RECENT_MAX = 1_024

_HEAD, _TAIL = answers.OK_HEAD.pack, answers.OK_TAIL.pack
_HEAD_FRAME, _HEAD_BLOCK, _DATA_TYPE = answers.OK_HEAD_FRAME, answers.OK_HEAD_BLOCK, answers.DATA_TYPE
_TAIL_FRAME, _TAIL_BLOCK = answers.OK_TAIL_FRAME, answers.TRAILERS_BLOCK


class Sending(Generic[S]):
    """Streams, windows and output.

    Attributes:
        out: bytes to be written, in order.
        streams: open streams by id.
        lingering: handlers at work whose stream is gone.
        now: the time of the last call that brought one.
    """

    def __init__(self, calls: Calls[S], limits: Limits, now: float) -> None:
        self.limits = limits
        self.now = now
        self.out: list[bytes] = []
        self.streams: dict[int, S] = {}
        self.lingering = 0
        self._calls = calls
        self._frame_max = limits.frame_bytes_max
        self._window = frames.DEFAULT_WINDOW
        self._initial = frames.DEFAULT_WINDOW
        self._blocked: dict[int, S] = {}
        self._left = limits.connection_window
        self._owed = 0
        self._control_frames = 0
        self._resets_sent = Bucket(limits.resets_max, limits.resets_per_s, now)
        self._recent: dict[int, None] = {}
        self._large_left = limits.large_messages_bytes
        self._inflated_left = limits.inflated_bytes

    def take_output(self) -> bytes:
        """Everything to be written now, with the window of what was read since."""
        if self._owed >= self.limits.connection_window >> 1:
            self.out.append(frames.window_update(0, self._owed))
            self._left += self._owed
            self._owed = 0
        data = b"".join(self.out)
        self.out.clear()
        self._control_frames = 0
        return data

    def answer(self, stream: S, message: bytes) -> None:
        """The one message of a call, and status OK. The handler's work has ended. HOT.

        `message` is not empty: to Envoy that would be an allow.
        """
        size = len(message) + 5
        if stream.phase == RUNNING and size <= self._frame_max and size <= self._window and size <= self._initial + stream.window:
            self._window -= size
            stream_id = stream.id
            self.out += (
                _HEAD(_HEAD_FRAME, stream_id, _HEAD_BLOCK, size, _DATA_TYPE, stream_id, 0, size - 5),
                message,
                _TAIL(_TAIL_FRAME, stream_id, _TAIL_BLOCK),
            )
            del self.streams[stream_id]
            stream.phase = CLOSED
            self._owed += stream.held
            if stream.inflated:
                self._inflated_left += stream.inflated
            return
        self.push(stream, message)
        self.finish(stream, 0, "")

    def fail(self, stream: S, status: int, text: str) -> None:
        """End a call with a status and no further message. The handler's work has ended, or there was none."""
        if stream.has_headers:
            self.finish(stream, status, text)
            return
        self._end_of_work(stream)
        self.out.append(answers.failure(stream.id, status, text))
        self._close(stream)

    def cut(self, stream: S, status: int, text: str) -> None:
        """End a call with a status although its handler may be at work; then it is cancelled, and counts until it has ended."""
        if not stream.has_work():
            self.fail(stream, status, text)
            return
        make = answers.trailers if stream.has_headers else answers.failure
        self.out.append(make(stream.id, status, text))
        stream.is_half_answered = stream.phase < RUNNING
        stream.outbox = None
        self._close(stream)
        self.lingering += 1
        self._calls.cancel(stream)

    def push(self, stream: S, message: bytes) -> None:
        """One message of a call; what no window lets out is queued."""
        if not stream.has_headers:
            stream.has_headers = True
            self.out.append(answers.headers(stream.id))
        self._queue(stream, b"\0" + len(message).to_bytes(4, "big") + message)

    def finish(self, stream: S, status: int, text: str) -> None:
        """The status after a call's messages. The handler's work has ended."""
        self._end_of_work(stream)
        stream.tail = answers.trailers(stream.id, status, text)
        self._pump(stream)

    def queued_bytes(self, stream: S) -> int:
        """Octets of a call's messages that no window lets out."""
        return len(stream.outbox) if stream.outbox else 0

    def release(self, stream: S) -> None:
        """The work of a handler whose stream was gone has ended."""
        self.lingering -= 1
        self._give_back(stream)

    def reset(self, stream_id: int, code: int) -> None:
        """RST_STREAM, whether there is such a stream or not. Raises ConnectionFault when the client makes us do it too often."""
        stream = self.streams.get(stream_id)
        if (stream is None or stream.phase < SENDING) and not self._resets_sent.take(self.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams had to be reset")
        self._control(frames.rst_stream(stream_id, code))
        self._remember(stream_id)
        if stream is not None:
            self._drop(stream)

    def _reply_http(self, stream: S, status: int) -> None:
        """An answer to a request that is no gRPC call."""
        self._end_of_work(stream)
        head, body = answers.http(stream.id, status, is_head=stream.request.is_head)
        self.out.append(head)
        if not body:
            self._close(stream)
            return
        stream.tail = b""
        self._queue(stream, body)

    def _end_of_work(self, stream: S) -> None:
        """From here on the stream only waits for its answer to be sent."""
        stream.is_half_answered = stream.phase < RUNNING and not stream.is_whole
        stream.phase = SENDING
        stream.age = 0
        self._give_back(stream)

    def _queue(self, stream: S, payload: bytes) -> None:
        if stream.outbox is None:
            stream.outbox = bytearray()
        stream.outbox += payload
        self._pump(stream)

    def _pump(self, stream: S) -> None:
        """Send what the windows allow of a stream's outbox."""
        box = stream.outbox
        while box:
            room = min(self._window, self._initial + stream.window, self._frame_max)
            if room <= 0:
                self._blocked[stream.id] = stream
                return
            chunk = bytes(box[:room])
            del box[:room]
            self._window -= len(chunk)
            stream.window -= len(chunk)
            flags = frames.END_STREAM if not box and stream.tail == b"" else 0
            self.out.append(frames.frame(frames.DATA, flags, stream.id, chunk))
        if self._blocked.pop(stream.id, None) is not None and stream.tail is None:
            self._calls.writable(stream)
        if stream.tail is not None:
            self.out.append(stream.tail)
            self._close(stream)

    def _close(self, stream: S) -> None:
        """The answer is written. A client that still sends is told to stop, without an error (RFC 9113 section 8.1)."""
        if stream.is_half_answered:
            self.out.append(frames.rst_stream(stream.id, frames.NO_ERROR))
            self._remember(stream.id)
        stream.phase = CLOSED
        self._blocked.pop(stream.id, None)
        del self.streams[stream.id]

    def _drop(self, stream: S) -> None:
        """The stream is gone without an answer. Its handler is cancelled, and counts until it has ended."""
        has_work = stream.has_work()
        stream.phase = CLOSED
        stream.outbox = None
        self._blocked.pop(stream.id, None)
        del self.streams[stream.id]
        if has_work:
            self.lingering += 1
            self._calls.cancel(stream)
        else:
            self._give_back(stream)

    def _give_back(self, stream: S) -> None:
        """Return what the call held of the connection's bounds."""
        self._owed += stream.held - stream.reserved  # negative when more was given in advance than came
        self._large_left += stream.reserved
        self._inflated_left += stream.inflated
        stream.held = stream.reserved = stream.inflated = 0
        stream.buffer = None

    def _control(self, data: bytes) -> None:
        self._control_frames += 1
        if self._control_frames > self.limits.control_frames_queued_max:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many control frames wait to be read")
        self.out.append(data)

    def _remember(self, stream_id: int) -> None:
        if len(self._recent) >= _RECENT_MAX:
            del self._recent[next(iter(self._recent))]
        self._recent[stream_id] = None
