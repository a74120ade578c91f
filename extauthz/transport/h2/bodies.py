"""The half of a connection that reads bodies: DATA within our windows, put together to gRPC messages."""

from extauthz.errors import Malformed
from extauthz.transport.grpc_framing import PREFIX, PREFIX_BYTES, TooLarge, inflate
from extauthz.transport.h2 import frames
from extauthz.transport.h2.frames import ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, StreamFault
from extauthz.transport.h2.request import Kind
from extauthz.transport.h2.sending import Sending
from extauthz.transport.h2.streams import DISCARDING, RECEIVING, RUNNING, Message, S
from extauthz.transport.seam import INTERNAL, RESOURCE_EXHAUSTED

_TOO_LARGE = "the message is too large"
_NOT_ONE = "the call needs exactly one message"
_BAD_PREFIX = "malformed message prefix"


class Bodies(Sending[S]):
    """What DATA does to a stream, off the quick path."""

    def consumed(self, stream: S, message: Message) -> None:
        """The handler of a client-streaming call took a message: its octets may be sent again."""
        if not stream.held:
            return  # the call has ended and gave everything back
        credit = message.wire_bytes - message.credited
        self._owed += credit
        stream.held -= message.wire_bytes
        self._large_left += message.credited
        stream.reserved -= message.credited
        self._inflated_left += message.inflated
        stream.inflated -= message.inflated
        stream.unreturned += credit
        if stream.phase == RECEIVING and stream.unreturned >= self.limits.stream_window >> 1:
            self._grant(stream, stream.unreturned)
            stream.unreturned = 0

    def _body(self, stream: S, payload: bytes, padding: int, *, is_end: bool) -> None:
        """One DATA frame of a stream; the connection's window was charged for all of it. Raises StreamFault."""
        self._owed += padding
        stream.granted += padding
        stream.spent += len(payload) + padding
        if padding and not is_end:
            self.out.append(frames.window_update(stream.id, padding))
        if stream.phase not in (RECEIVING, DISCARDING):
            self._owed += len(payload)
            if not stream.is_half_answered:
                raise StreamFault(STREAM_CLOSED, "DATA after the end of the stream")
            stream.is_half_answered = not is_end
            return
        stream.held += len(payload)
        if stream.spent > self.limits.stream_window + stream.granted:
            raise StreamFault(FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
        if not payload and not is_end and stream.was_empty:
            raise StreamFault(ENHANCE_YOUR_CALM, "empty DATA in a row")
        stream.was_empty = not payload
        stream.is_whole = is_end
        stream.body_bytes += len(payload)
        self._check_length(stream, is_end=is_end)
        if stream.phase == DISCARDING:
            if is_end or stream.body_bytes > self.limits.message_bytes_max:
                self._refuse(stream)
        elif stream.request.kind is Kind.CLIENT_STREAM:
            self._many(stream, payload, is_end=is_end)
        else:
            self._one(stream, payload, is_end=is_end)

    def _end_of_body(self, stream: S) -> None:
        """END_STREAM came on a header block. Raises StreamFault."""
        stream.is_whole = True
        self._check_length(stream, is_end=True)
        if stream.phase == DISCARDING:
            self._refuse(stream)
        elif stream.request.kind is Kind.CLIENT_STREAM:
            self._many(stream, b"", is_end=True)
        else:
            self._one(stream, b"", is_end=True)

    def _check_length(self, stream: S, *, is_end: bool) -> None:
        length = stream.request.content_length
        if length >= 0 and (stream.body_bytes > length or (is_end and stream.body_bytes != length)):
            raise StreamFault(PROTOCOL_ERROR, "the body is not as long as content-length says")

    def _refuse(self, stream: S) -> None:
        """The answer that was known from the headers; a body we stopped reading is too large."""
        request = stream.request
        if request.kind is Kind.HTTP:
            self._reply_http(stream, request.status if stream.is_whole else 413)
        else:
            self.fail(stream, request.status, request.text)

    def _one(self, stream: S, payload: bytes, *, is_end: bool) -> None:
        """A unary or server-streaming call: exactly one message, then the end."""
        buffer = stream.buffer
        if buffer is None:
            buffer = stream.buffer = bytearray()
        buffer += payload
        size, is_compressed = 0, 0
        if len(buffer) >= PREFIX_BYTES:
            is_compressed, size = PREFIX.unpack_from(buffer)
            if size > self.limits.message_bytes_max:
                self.fail(stream, RESOURCE_EXHAUSTED, _TOO_LARGE)
                return
        if len(buffer) - PREFIX_BYTES > size or (is_end and len(buffer) - PREFIX_BYTES != size):
            self.fail(stream, INTERNAL, _NOT_ONE)
            return
        if not is_end:
            return
        stream.buffer = None
        message = self._unpacked(stream, bytes(buffer[PREFIX_BYTES:]), is_compressed, self.limits.message_bytes_max)
        if message is not None:
            stream.phase = RUNNING
            self._calls.start(stream, message)

    def _many(self, stream: S, payload: bytes, *, is_end: bool) -> None:
        """A client-streaming call: any number of messages, handed over as they get whole."""
        buffer = stream.buffer
        if buffer is None:
            buffer = stream.buffer = bytearray()
        buffer += payload
        while len(buffer) >= PREFIX_BYTES:
            is_compressed, size = PREFIX.unpack_from(buffer)
            if size > self.limits.stream_message_bytes_max or not self._reserve(stream, size):
                self.cut(stream, RESOURCE_EXHAUSTED, _TOO_LARGE)
                return
            if len(buffer) < PREFIX_BYTES + size:
                break
            data = bytes(buffer[PREFIX_BYTES : PREFIX_BYTES + size])
            del buffer[: PREFIX_BYTES + size]
            before = stream.inflated
            message = self._unpacked(stream, data, is_compressed, self.limits.stream_message_bytes_max)
            if message is None:
                return
            credited, stream.credited = stream.credited, 0
            self._calls.receive(stream, Message(message, PREFIX_BYTES + size, credited, stream.inflated - before))
        if is_end and buffer:
            self.cut(stream, INTERNAL, _BAD_PREFIX)
        elif is_end:
            stream.phase = RUNNING
            self._calls.end(stream)

    def _reserve(self, stream: S, size: int) -> bool:
        """Room for a message that no window would let through; it is taken once, when its prefix came."""
        if size <= self.limits.message_bytes_max or stream.credited:
            return True
        if size > self._large_left:
            return False
        self._large_left -= size
        stream.reserved += size
        stream.credited = size
        self._left += size
        self.out.append(frames.window_update(0, size))
        self._grant(stream, size)
        return True

    def _grant(self, stream: S, size: int) -> None:
        stream.granted += size
        self.out.append(frames.window_update(stream.id, size))

    def _unpacked(self, stream: S, data: bytes, is_compressed: int, bytes_max: int) -> bytes | None:
        """The message itself; None when the call was ended instead."""
        if is_compressed == 0:
            return data
        if is_compressed != 1 or not stream.request.has_gzip:
            self.cut(stream, INTERNAL, _BAD_PREFIX)
            return None
        try:
            message = inflate(data, min(bytes_max, self._inflated_left))
        except TooLarge:
            self.cut(stream, RESOURCE_EXHAUSTED, _TOO_LARGE)
            return None
        except Malformed:
            self.cut(stream, INTERNAL, "malformed gzip")
            return None
        self._inflated_left -= len(message)
        stream.inflated += len(message)
        return message
