"""The sockets a transport listens on: mode 0660, no stale file, no port that another process has."""

import contextlib
import errno
import socket
import stat
from pathlib import Path

from extauthz.errors import BadConfig, Problem
from extauthz.settings import Listen, parse_listen

SOCKET_MODE = 0o660
_BACKLOG = 512


def bind(text: str) -> socket.socket:
    """A bound socket for `unix:PATH` or `HOST:PORT`, not yet listening. Raises BadConfig that names the path or the port."""
    listen = parse_listen(text)
    if listen.is_unix:
        return _bind_unix(listen)
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((listen.host, listen.port))
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise refused(listen, error) from error
    return found


def refused(listen: Listen, error: OSError | None = None) -> BadConfig:
    """What to say when an address cannot be had."""
    if error is not None and error.errno not in (errno.EADDRINUSE, None):
        return BadConfig([Problem("--listen", 0, f"{listen}: {error.strerror}", "an address this process may listen on")])
    what = f"{listen} is in use by another process" if listen.is_unix else f"port {listen.port} of {listen.host} is in use"
    return BadConfig([Problem("--listen", 0, what, "an address nothing listens on")])


def clear_stale(listen: Listen) -> None:
    """Remove the socket file of a process that is gone. Raises BadConfig when one still listens, or the file is no socket."""
    try:
        mode = Path(listen.path).lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(listen, error) from error
    if not stat.S_ISSOCK(mode):
        raise BadConfig([Problem("--listen", 0, f"{listen} exists and is no socket", "the path of a socket, or of nothing")])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(listen.path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                Path(listen.path).unlink()
        except OSError as error:
            raise refused(listen, error) from error
        else:
            raise refused(listen)


def _bind_unix(listen: Listen) -> socket.socket:
    clear_stale(listen)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.bind(listen.path)
        Path(listen.path).chmod(SOCKET_MODE)  # before it listens: nobody connects in between
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise refused(listen, error) from error
    return found
