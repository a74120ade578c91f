"""Where a transport listens: sockets with the right mode, no stale file in the way, and a clear error for what cannot be had."""

import socket
import stat
from pathlib import Path

import pytest

from demo.processes import free_port
from extauthz.errors import BadConfig
from extauthz.transport.seam import Services
from tests.transport.conftest import Serve


async def echo(message: bytes, _deadline: float) -> bytes:
    return message


SERVICES = Services(unary={"/test.Service/Echo": echo})


async def test_a_socket_is_for_its_owner_and_group_only(serve: Serve, transport: str, socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    await serve(transport, SERVICES, f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_a_stale_socket_is_replaced(serve: Serve, transport: str, socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    served = await serve(transport, SERVICES, f"unix:{path}")
    async with served.channel() as channel:
        assert await channel.unary_unary("/test.Service/Echo")(b"x") == b"x"


async def test_a_socket_that_another_process_serves_is_left_alone(serve: Serve, transport: str, socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    first = await serve("fast", SERVICES, f"unix:{path}")
    with pytest.raises(BadConfig, match=f"unix:{path} is in use by another process"):
        await serve(transport, SERVICES, f"unix:{path}")
    async with first.channel() as channel:
        assert await channel.unary_unary("/test.Service/Echo")(b"x") == b"x"


async def test_a_file_that_is_no_socket_is_left_alone(serve: Serve, transport: str, socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    path.write_text("precious")
    with pytest.raises(BadConfig, match="exists and is no socket"):
        await serve(transport, SERVICES, f"unix:{path}")
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_said(serve: Serve, transport: str, socket_folder: Path) -> None:
    with pytest.raises(BadConfig, match="at most 107 bytes"):
        await serve(transport, SERVICES, f"unix:{socket_folder}/{'x' * 100}")


async def test_a_folder_that_is_not_there_is_said(serve: Serve, transport: str, socket_folder: Path) -> None:
    with pytest.raises(BadConfig, match=f"unix:{socket_folder}/none/x.sock"):
        await serve(transport, SERVICES, f"unix:{socket_folder}/none/x.sock")


async def test_a_busy_port_is_named(serve: Serve, transport: str) -> None:
    port = free_port()
    await serve(transport, SERVICES, f"127.0.0.1:{port}")
    with pytest.raises(BadConfig, match=f"port {port} of 127.0.0.1 is in use"):
        await serve(transport, SERVICES, f"127.0.0.1:{port}")


@pytest.mark.parametrize("listen", ["", "unix:", "nowhere", "127.0.0.1:0", "127.0.0.1:65536", "[::1]"])
async def test_what_is_no_address_is_said(serve: Serve, transport: str, listen: str) -> None:
    with pytest.raises(BadConfig, match="is no address"):
        await serve(transport, SERVICES, listen)


async def test_one_server_listens_on_several_addresses(serve: Serve, transport: str, socket_folder: Path) -> None:
    served = await serve(transport, SERVICES, f"unix:{socket_folder}/x.sock")
    for address in (f"127.0.0.1:{free_port()}", f"[::1]:{free_port()}"):
        if address.startswith("[") and not socket.has_dualstack_ipv6():
            continue
        await served.server.start(address)
        served.address = address
        async with served.channel() as channel:
            assert await channel.unary_unary("/test.Service/Echo")(b"x") == b"x"


async def test_the_socket_file_goes_with_its_server_but_not_with_its_successor(serve: Serve, socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    first = await serve("fast", SERVICES, f"unix:{path}")
    path.unlink()
    second = await serve("fast", SERVICES, f"unix:{path}")
    await first.server.close()
    assert path.exists()
    await second.server.close()
    assert not path.exists()
