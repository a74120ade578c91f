"""The environment and the flags: every mistake by its variable's name, no secret in any message."""

from pathlib import Path

import pytest

from extauthz.errors import BadConfig
from extauthz.secret import Secret
from extauthz.settings import (
    Listen,
    RecordSettings,
    ServingSettings,
    parse_listen,
    read_record,
    read_sealing,
    read_serving,
    worker_listens,
)

URL = "redis://:hunter2@127.0.0.1:6379"


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    key = tmp_path / "master.key"
    key.write_text("00" * 32)
    return {"EXTAUTHZ_REDIS_URL": URL, "EXTAUTHZ_MASTER_KEY_FILE": str(key)}


def names(caught: pytest.ExceptionInfo[BadConfig]) -> list[str]:
    return [problem.file for problem in caught.value.problems]


def test_two_variables_are_enough_to_serve(good: dict[str, str]) -> None:
    serving = read_serving(good)
    assert serving == ServingSettings(
        record=RecordSettings(Secret(URL.encode()), 250, "live"),
        master_key_file=Path(good["EXTAUTHZ_MASTER_KEY_FILE"]),
        log_level="info",
        traces_endpoint="",
        has_tenant_label=False,
        document_cache_max=100_000,
        credential_cache_s=300,
        drain_s=20,
    )
    assert "hunter2" not in repr(serving)


def test_every_variable_is_read(good: dict[str, str]) -> None:
    serving = read_serving(
        good
        | {
            "EXTAUTHZ_ENV": "test",
            "EXTAUTHZ_REDIS_TIMEOUT_MS": "100",
            "EXTAUTHZ_LOG_LEVEL": "DEBUG",
            "EXTAUTHZ_TRACES": "http://127.0.0.1:4318/",
            "EXTAUTHZ_TENANT_LABEL": "on",
            "EXTAUTHZ_DOCUMENT_CACHE_MAX": "100",
            "EXTAUTHZ_CREDENTIAL_CACHE_S": "60",
            "EXTAUTHZ_DRAIN_S": "5",
        }
    )
    assert serving == ServingSettings(
        RecordSettings(Secret(URL.encode()), 100, "test"),
        Path(good["EXTAUTHZ_MASTER_KEY_FILE"]),
        "debug",
        "http://127.0.0.1:4318",
        has_tenant_label=True,
        document_cache_max=100,
        credential_cache_s=60,
        drain_s=5,
    )


def test_what_is_missing_is_named_all_at_once() -> None:
    with pytest.raises(BadConfig) as caught:
        read_serving({})
    assert names(caught) == ["EXTAUTHZ_REDIS_URL", "EXTAUTHZ_MASTER_KEY_FILE"]


def test_commands_that_seal_nothing_need_no_master_key() -> None:
    assert read_record({"EXTAUTHZ_REDIS_URL": URL}) == RecordSettings(Secret(URL.encode()), 250, "live")
    with pytest.raises(BadConfig) as caught:
        read_sealing({"EXTAUTHZ_REDIS_URL": URL})
    assert names(caught) == ["EXTAUTHZ_MASTER_KEY_FILE"]


BAD = {
    "EXTAUTHZ_ENV": ("Live", "a_b", "a-b", "toolongword", "1"),
    "EXTAUTHZ_REDIS_TIMEOUT_MS": ("0", "9", "10001", "1.5", "-1", "250ms", "9" * 400),
    "EXTAUTHZ_LOG_LEVEL": ("loud", "0"),
    "EXTAUTHZ_TRACES": ("on", "127.0.0.1:4317", "ftp://a", "http://", "http://a b", "http://u:hunter2@a"),
    "EXTAUTHZ_TENANT_LABEL": ("maybe", "1"),
    "EXTAUTHZ_DOCUMENT_CACHE_MAX": ("99", "1000001"),
    # Longer than 5 minutes is promised never to happen while the store answers.
    "EXTAUTHZ_CREDENTIAL_CACHE_S": ("0", "301"),
    "EXTAUTHZ_DRAIN_S": ("0", "601"),
    "EXTAUTHZ_MASTER_KEY_FILE": ("/nonexistent/key", "/"),
    "EXTAUTHZ_REDIS_URL_FILE": ("/etc/hostname",),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_value_out_of_bounds_is_refused_by_name(good: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(BadConfig) as caught:
        read_serving(good | {name: value})
    assert names(caught) == [name.removesuffix("_FILE") if name == "EXTAUTHZ_REDIS_URL_FILE" else name]
    assert "hunter2" not in str(caught.value)


def test_url_may_stand_in_a_file(good: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(f"{URL}\n")
    del good["EXTAUTHZ_REDIS_URL"]
    assert read_serving(good | {"EXTAUTHZ_REDIS_URL_FILE": str(path)}).record.redis_url == Secret(URL.encode())


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_file_without_a_url_is_refused_by_name(good: dict[str, str], tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
    del good["EXTAUTHZ_REDIS_URL"]
    with pytest.raises(BadConfig) as caught:
        read_serving(good | {"EXTAUTHZ_REDIS_URL_FILE": str(path)})
    assert names(caught) == ["EXTAUTHZ_REDIS_URL_FILE"]


def test_variables_that_kubernetes_sets_are_no_mistake(good: dict[str, str]) -> None:
    read_serving(good | {"EXTAUTHZ_PORT": "tcp://10.0.0.1:9000", "EXTAUTHZ_SERVICE_HOST": "10.0.0.1"})


LISTENS = {
    "unix:/run/x.sock": Listen(path="/run/x.sock"),
    "unix:/run//a/../x.sock": Listen(path="/run/x.sock"),
    "unix:x.sock": Listen(path=str(Path.cwd() / "x.sock")),
    "127.0.0.1:9000": Listen(host="127.0.0.1", port=9000),
    "0.0.0.0:1": Listen(host="0.0.0.0", port=1),
    "[::1]:9000": Listen(host="::1", port=9000),
    "[::]:65535": Listen(host="::", port=65_535),
    "localhost:9000": Listen(host="localhost", port=9000),
}

NO_LISTENS = (
    "", "unix:", "unix", "/run/x.sock", ":9000", "9000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536",
    "127.0.0.1:-1", "127.0.0.1:09", "::1:9000", "[::1]", "[::1]:", "[]:9000", "[x]:9000", "127.0.0.1:9000 ", "a b:1",
    "tcp://a:1", "unix:/a\0b", "unix:/" + "a" * 107,
)  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), LISTENS.items(), ids=LISTENS)
def test_listen_address_is_read_and_shown(text: str, expected: Listen) -> None:
    assert parse_listen(text) == expected
    assert parse_listen(str(expected)) == expected


@pytest.mark.parametrize("text", NO_LISTENS)
def test_listen_address_that_is_none_is_refused_by_the_flag(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse_listen(text, "--health")
    assert names(caught) == ["--health"]


def shown(listens: tuple[str, ...], workers: int | None) -> list[list[str]]:
    return [list(map(str, own)) for own in worker_listens([parse_listen(text) for text in listens], workers)]


def test_without_workers_the_addresses_are_served_as_given() -> None:
    assert shown(("unix:/run/x", "127.0.0.1:9000"), None) == [["unix:/run/x", "127.0.0.1:9000"]]


def test_each_worker_has_addresses_of_its_own() -> None:
    assert shown(("unix:/run/x",), 1) == [["unix:/run/x.0"]]
    assert shown(("unix:/run/x", "[::1]:9000"), 3) == [
        ["unix:/run/x.0", "[::1]:9000"],
        ["unix:/run/x.1", "[::1]:9001"],
        ["unix:/run/x.2", "[::1]:9002"],
    ]


@pytest.mark.parametrize(
    ("listens", "workers"),
    [
        ((), None),
        (("unix:/run/x",), 0),
        (("unix:/run/x",), -1),
        (("unix:/run/x",), 65),
        (("unix:/run/x", "unix:/run/x"), None),
        (("127.0.0.1:9000", "127.0.0.1:9001"), 2),
        (("127.0.0.1:65535",), 2),
        (("unix:/" + "a" * 106,), 1),
    ],
)
def test_workers_that_could_not_all_listen_are_refused(listens: tuple[str, ...], workers: int | None) -> None:
    with pytest.raises(BadConfig):
        shown(listens, workers)
