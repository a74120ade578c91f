"""The frames that steer a connection: SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, PRIORITY, GOAWAY; what they may cost; the drain.

A frame that asks for nothing is counted against the streams that could explain it; one that makes us answer or lose work has a
bucket.
"""

from extauthz.transport.h2 import frames
from extauthz.transport.h2.blocks import Blocks
from extauthz.transport.h2.bodies import Bodies
from extauthz.transport.h2.frames import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    WINDOW_MAX,
    ConnectionFault,
    StreamFault,
)
from extauthz.transport.h2.limits import Bucket, Limits
from extauthz.transport.h2.streams import SENDING, Calls, S

_DRAIN_PING = b"drain-it"
#: How long a client may take to answer the PING that goes with the first GOAWAY; then its later streams are refused.
_DRAIN_NOTICE_S = 1.0


class Control(Bodies[S]):
    """What every frame but DATA, HEADERS and CONTINUATION does.

    Attributes:
        closing: why the connection ends, "" while it goes on; its last output is then to be written.
        is_draining: whether the client was asked to open no more streams.
    """

    def __init__(self, calls: Calls[S], blocks: Blocks, limits: Limits, now: float) -> None:
        super().__init__(calls, limits, now)
        self.closing = ""
        self.is_draining = False
        self._blocks = blocks
        self._next_id = 1
        self._skipped_ids = 0
        self._refused_from = frames.STREAM_ID_MAX
        self._drained_at = 0.0
        self._noise = 0
        self._opened_before = 0
        self._resets = Bucket(limits.resets_max, limits.resets_per_s, now)
        self._pings = Bucket(limits.pings_max, limits.pings_per_s, now)
        self._settings_frames = Bucket(limits.pings_max, limits.pings_per_s, now)
        self._unacknowledged = 1
        self._has_announced = False

    def drain(self, now: float) -> None:
        """Ask the client to open no more streams; those it opens until it has heard are served (RFC 9113 section 6.8)."""
        if self.is_draining or self.closing:
            return
        self.is_draining = True
        self._drained_at = now + _DRAIN_NOTICE_S
        self.out.append(frames.goaway(frames.STREAM_ID_MAX, frames.NO_ERROR, "draining"))
        self.out.append(frames.frame(frames.PING, 0, 0, _DRAIN_PING))

    @property
    def is_drained(self) -> bool:
        """Whether the client knows, every stream has ended and no handler is at work."""
        return self.is_refusing and not self.streams and not self.lingering

    @property
    def is_refusing(self) -> bool:
        """Whether new streams are no longer served."""
        return self._refused_from != frames.STREAM_ID_MAX

    def _refuse_from_now(self) -> None:
        """The second step of a drain: streams above this one were not and will not be processed."""
        if not self.is_refusing:
            self._refused_from = max(self._next_id - 2, 0)
            self.out.append(frames.goaway(self._refused_from, frames.NO_ERROR, "draining"))

    @property
    def _opened(self) -> int:
        return (self._next_id >> 1) - self._skipped_ids

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id >= self._next_id or stream_id & 1 == 0

    def _count_noise(self) -> None:
        """A frame that asks for nothing; streams explain some of them."""
        self._noise += 1
        if self._noise > self.limits.noise_max + self.limits.noise_per_stream * (self._opened - self._opened_before):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._count_noise()
        if stream_id == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY without a stream")
        if len(payload) != 5:
            raise self._fault_of(stream_id, FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        if int.from_bytes(payload[:4], "big") & frames.STREAM_ID_MAX == stream_id:
            raise self._fault_of(stream_id, PROTOCOL_ERROR, "a stream that depends on itself")

    def _fault_of(self, stream_id: int, code: int, why: str) -> ConnectionFault | StreamFault:
        """An error of a stream; of the connection where there is no stream that could be reset."""
        return StreamFault(code, why) if stream_id in self.streams else ConnectionFault(code, why)

    def _rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        if stream_id == 0 or self._is_idle(stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM on no stream")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._count_noise()
            return
        # Envoy resets what is late. A reset in the second half of the call's own time is that, and is not counted.
        is_late = self.now >= stream.deadline - stream.request.timeout_s / 2
        if stream.phase < SENDING and not is_late and not self._resets.take(self.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams were reset")
        self._drop(stream)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if flags & frames.ACK:
            self._count_noise()
            self._unacknowledged = max(0, self._unacknowledged - 1)
            if self._unacknowledged == 0 and self._has_announced:
                self._blocks.acknowledged()
            return
        if not self._settings_frames.take(self.now) or len(payload) > 6 * self.limits.settings_entries_max:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many settings")
        for name, value in frames.setting_pairs(payload):
            self._set(name, value)
        self._control(frames.SETTINGS_ACK)
        self._pump_blocked()

    def _set(self, name: int, value: int) -> None:
        if name == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if name == frames.MAX_FRAME_SIZE:
            if not 2**14 <= value < 2**24:
                raise ConnectionFault(PROTOCOL_ERROR, "MAX_FRAME_SIZE out of bounds")
        elif name == frames.INITIAL_WINDOW_SIZE:
            if value > WINDOW_MAX or any(value + stream.window > WINDOW_MAX for stream in self.streams.values()):
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
            self._initial = value

    def _push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "a client does not promise")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PING of a wrong size")
        if flags & frames.ACK:
            self._count_noise()
            if self.is_draining and payload == _DRAIN_PING:
                self._refuse_from_now()
            return
        if not self._pings.take(self.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many pings")
        self._control(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._count_noise()
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")

    def _window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._count_noise()
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = int.from_bytes(payload, "big") & WINDOW_MAX
        if stream_id == 0:
            self._window += increment
            if increment == 0:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            if self._window > WINDOW_MAX:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
            self._pump_blocked()
            return
        if self._is_idle(stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE on no stream")
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if increment == 0:
            raise StreamFault(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        stream.window += increment
        if self._initial + stream.window > WINDOW_MAX:
            raise StreamFault(FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        if stream.outbox:
            self._pump(stream)

    def _stray_continuation(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION without HEADERS")

    def _pump_blocked(self) -> None:
        for stream in list(self._blocked.values()):
            if self._window <= 0:
                return
            self._pump(stream)
