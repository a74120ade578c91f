"""An error reply becomes the right kind, on every server, inside scripts and outside."""

import pytest
import redis

from demo.redis_server import binaries
from extauthz.redisio.errors import CommandFailed, ServerBusy, code_of, error_of
from tests.redisio.conftest import Connect, Serve

IN_62 = "ERR Error running script (call to f_62e6aac9c7520a78c28f012748b42ed670fff5d3): @user_script:1: "


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("LOADING Redis is loading the dataset in memory", "LOADING"),
        ("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: on @user_script:1.", "OOM"),
        ("ERR value is not an integer or out of range", "ERR"),
        ("", "ERR"),
        ("no code at all", "ERR"),
        ("LOADINGS is another word", "LOADINGS"),
        ("LOADING", "LOADING"),
        (IN_62 + "@user_script: 1: -OOM command not allowed", "OOM"),
        (IN_62 + "@user_script: 12: -READONLY You can't write", "READONLY"),
        (IN_62 + "WRONGTYPE Operation against a key", "WRONGTYPE"),
        (IN_62 + "ERR value is not an integer or out of range", "ERR"),
        (IN_62 + "user_script:1: boom -OOM x", "ERR"),
        (IN_62 + "user_script:1: the word READONLY in a text", "ERR"),
        ("@user_script: 1: -READONLY You can't write against a read only replica.", "READONLY"),
        ("ERR user_script:1: boom -OOM x script: on @user_script:1.", "ERR"),
        ("ERR user_script:7: -OOM command not allowed", "OOM"),
        ("ERR Error compiling script (new function): user_script:1: unexpected symbol near '<eof>'", "ERR"),
    ],
)
def test_code_is_found_wherever_the_server_puts_it(text: str, code: str) -> None:
    assert code_of(text) == code


def test_what_passes_later_is_unavailable_and_the_rest_is_not() -> None:
    assert type(error_of("MASTERDOWN Link with MASTER is down")) is ServerBusy
    assert type(error_of("WRONGTYPE Operation")) is CommandFailed


def test_arguments_that_the_server_repeats_are_not_shown() -> None:
    error = error_of("ERR unknown command 'AUHT', with args beginning with: 'canary' ")
    assert "canary" not in f"{error}{error!r}{error.args}"


@pytest.mark.parametrize("binary", sorted(dict(binaries())))
async def test_real_servers_say_what_the_table_knows(binary: str, serve: Serve, connect: Connect) -> None:
    server = serve(dict(binaries())[binary])
    connection = await connect(server.url)
    in_script = "redis.call('SET',KEYS[1],'x') return 1"
    returned = "return redis.pcall('SET',KEYS[1],'x')"
    seen = []
    with redis.Redis.from_url(server.url) as operator:
        for option, on, off in (("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")):
            operator.config_set(option, on)
            for command in (("SET", "a", "b"), ("EVAL", in_script, 1, "k"), ("EVAL", returned, 1, "k")):
                with pytest.raises(ServerBusy) as caught:
                    await connection.execute(*command)
                seen.append(caught.value.code)
            operator.config_set(option, off)
    assert seen == ["OOM"] * 3 + ["NOREPLICAS"] * 3
