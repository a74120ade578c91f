"""A Redis of one dictionary that runs real Lua under a clock that a test sets, expiry included. Only what our scripts call."""

import struct
from typing import Any

import lupa.lua51

_PRELUDE = b"""
function(run_command, unpack_record)
  redis = {call = run_command}
  struct = {unpack = unpack_record}
end
"""


class SimulatedRedis:
    """Strings with expiry. Every command a script called is kept in `log`."""

    expires_by_given_clock = True

    def __init__(self, source: str, now_ms: int) -> None:
        self.now_ms = now_ms
        self.log: list[tuple[bytes, ...]] = []
        self._strings: dict[bytes, tuple[bytes, int | None]] = {}
        self._lua: Any = lupa.lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._lua.eval(_PRELUDE)(self._call, self._unpack)
        self._script = self._lua.eval(b"function(KEYS, ARGV)\n" + source.encode() + b"\nend")

    def clear(self, now_ms: int) -> None:
        """Empty again, at this moment."""
        self.now_ms = now_ms
        self.log.clear()
        self._strings.clear()

    def run(self, keys: list[bytes], argv: list[bytes]) -> list[int]:
        """EVALSHA."""
        answer = self._script(self._lua.table_from(keys), self._lua.table_from(argv))
        return [int(number) for number in answer.values()]

    def set(self, key: bytes, value: bytes | None, ttl_ms: int | None = None) -> None:
        """SET, with PX when given; DEL when None."""
        if value is None:
            self._strings.pop(key, None)
        else:
            self._strings[key] = value, None if ttl_ms is None else self.now_ms + ttl_ms

    def get(self, key: bytes) -> bytes | None:
        """GET. Redis expires a key when the clock is past its time, not at it."""
        value, ends = self._strings.get(key, (None, None))
        if ends is not None and self.now_ms > ends:
            del self._strings[key]
            return None
        return value

    def values(self) -> dict[bytes, bytes]:
        """Every counter that is there."""
        return {key: value for key in list(self._strings) if b":n:" in key and (value := self.get(key)) is not None}

    def ttls_ms(self) -> dict[bytes, int]:
        """-1: for ever."""
        return {key: -1 if (ends := self._strings[key][1]) is None else ends - self.now_ms for key in self.values()}

    def _call(self, name: bytes, *words: Any) -> Any:
        arguments = [word if isinstance(word, bytes) else b"%d" % word for word in words]
        self.log.append((name, *arguments))
        match name, *arguments:
            case b"MGET", *keys:
                return self._lua.table_from([self.get(key) or False for key in keys])
            case [b"TIME"]:
                return self._lua.table_from([b"%d" % (self.now_ms // 1000), b"%d" % (self.now_ms % 1000 * 1000 + 999)])
            case b"SET", key, value, b"PX", ttl:
                self._strings[key] = value, self.now_ms + int(ttl)
            case b"SET", key, value:
                self._strings[key] = value, None
            case b"SETRANGE", key, offset, tail:
                value, ends = self._strings.get(key, (b"", None))
                self._strings[key] = value[: int(offset)].ljust(int(offset), b"\0") + tail + value[int(offset) + len(tail) :], ends
            case b"PERSIST", key:
                self._strings[key] = self._strings[key][0], None
            case _:
                raise AssertionError(f"the script called {name!r} {arguments}")
        return True

    @staticmethod
    def _unpack(form: bytes, record: bytes, position: int) -> tuple[float, ...]:
        found = struct.unpack_from(form.decode(), record, int(position) - 1)
        return *found, int(position) + struct.calcsize(form.decode())
