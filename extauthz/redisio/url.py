"""Where Redis is and how to be let in, from one URL.

    redis://[user[:password]@]host[:port][/db]
    rediss://…                                    TLS, verified; ?ssl_ca_certs=FILE, ssl_certfile=FILE, ssl_keyfile=FILE
    unix://[user[:password]@]/path/to.sock[?db=0]

What redis-py's URLs say, these say; a query parameter that is not listed is refused, so none is silently ignored.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import ParseResult, parse_qsl, unquote, urlparse

from extauthz.errors import BadConfig, Problem
from extauthz.secret import Secret

_ALLOWED: Final = "redis://[user[:password]@]host[:port][/db], rediss://… or unix://[user[:password]@]/path[?db=0]"
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_PORT: Final = 6379
_DB_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL. Its `repr` and `str` show neither user nor password.

    Args:
        host: a name or an address; empty for a Unix socket.
        port: 1 to 65535; 0 for a Unix socket.
        path: of the Unix socket; empty for TCP.
        db: 0 to 65535.
        username: empty for the default user.
        password: None when there is none.
        is_tls: whether TLS is spoken, and the server's certificate verified.
        ca_file: certificates to trust instead of the system's; empty for the system's.
        certificate_file: our own certificate with its chain; empty for none.
        key_file: its key; empty when it is in the same file.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str = ""
    password: Secret | None = None
    is_tls: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    @classmethod
    def parse(cls, text: str, source: str = "EXTAUTHZ_REDIS_URL") -> "RedisUrl":
        """Raises BadConfig, which repeats nothing of the text: there may be a password in it.

        Args:
            text: the URL; percent-encoded where a part holds one of `:/@?#%`.
            source: which setting it came from, for the error.
        """
        try:
            parsed = urlparse(text.strip())
            return _of(parsed)
        except ValueError as error:
            # A ValueError of urllib can quote the text; ours are _Wrong and quote nothing.
            what = str(error) if isinstance(error, _Wrong) else "not a URL"
            raise BadConfig([Problem(source, 0, what, _ALLOWED)]) from None

    @property
    def address(self) -> str:
        """Where it is, for logs."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.is_tls else 'redis'}://{host}:{self.port}/{self.db}"

    def __repr__(self) -> str:
        return f"RedisUrl({self.address})"

    __str__ = __repr__

    def tls(self) -> ssl.SSLContext | None:
        """A context that verifies the server, or None without TLS. Raises OSError or ssl.SSLError for files that cannot be used."""
        if not self.is_tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file:
            context.load_cert_chain(Path(self.certificate_file), self.key_file or None)
        return context


class _Wrong(ValueError):
    """What is wrong, in words that quote nothing."""


def _of(parsed: ParseResult) -> RedisUrl:
    query = dict(parse_qsl(parsed.query, keep_blank_values=True, strict_parsing=bool(parsed.query)))
    if parsed.fragment or parsed.params:
        raise _Wrong("a '#' or ';' in the URL: percent-encode it")
    username = unquote(parsed.username or "")
    password = Secret(unquote(parsed.password).encode()) if parsed.password else None
    if parsed.scheme == "unix":
        return _unix(parsed, query, username, password)
    if parsed.scheme in ("redis", "rediss"):
        return _tcp(parsed, query, username, password)
    raise _Wrong("the scheme is none of redis, rediss, unix")


def _tcp(parsed: ParseResult, query: dict[str, str], username: str, password: Secret | None) -> RedisUrl:
    if not parsed.hostname:
        raise _Wrong("no host")
    is_tls = parsed.scheme == "rediss"
    _refuse_others(query, _FILES if is_tls else ())
    if parsed.port == 0:
        raise _Wrong("port 0")
    return RedisUrl(
        host=parsed.hostname,
        port=parsed.port or _PORT,
        db=_db(parsed.path.removeprefix("/")),
        username=username,
        password=password,
        is_tls=is_tls,
        ca_file=query.get("ssl_ca_certs", ""),
        certificate_file=query.get("ssl_certfile", ""),
        key_file=query.get("ssl_keyfile", ""),
    )


def _unix(parsed: ParseResult, query: dict[str, str], username: str, password: Secret | None) -> RedisUrl:
    if parsed.hostname:
        raise _Wrong("a host in a unix URL: the path begins with '/'")
    if not parsed.path.startswith("/") or parsed.path == "/":
        raise _Wrong("no path of a socket")
    _refuse_others(query, ("db",))
    return RedisUrl(path=unquote(parsed.path), db=_db(query.get("db", "")), username=username, password=password)


def _refuse_others(query: dict[str, str], known: tuple[str, ...]) -> None:
    if others := sorted(set(query) - set(known)):
        allowed = f"; allowed are {', '.join(known)}" if known else ""
        raise _Wrong(f"{len(others)} unknown query parameter{'s' if len(others) > 1 else ''}{allowed}")


def _db(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or int(text) > _DB_MAX:
        raise _Wrong("the database is not a number")
    return int(text)
