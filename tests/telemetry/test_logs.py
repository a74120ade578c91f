import json
import logging
from collections.abc import Iterator

import pytest

from extauthz.secret import Secret
from extauthz.telemetry import logs
from extauthz.tenants import api_key


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:], root.level = handlers, level


CANARIES = [
    api_key.mint("live")[0].reveal().decode(),
    "sk-proj-abcdefgh12345678",
    "sk-ant-api03-abcdefgh",
    "AIzaSyA1234567890abcdefghijk",
    "Bearer whatever-it-is.really",
    "basic dXNlcjpwYXNz",
    "redis://user:hunter2pass@10.0.0.1:6379",
    "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
]


@pytest.mark.parametrize("canary", CANARIES, ids=[f"canary{number}" for number in range(len(CANARIES))])
@pytest.mark.parametrize("place", ["message", "extra", "nested", "argument", "exception"])
def test_no_credential_reaches_a_line(
    canary: str, place: str, root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("debug")
    log = logging.getLogger("extauthz.test")
    if place == "message":
        log.info("saw " + canary)  # noqa: G003
    elif place == "argument":
        log.info("saw %s", canary)
    elif place == "extra":
        log.info("saw", extra={"what": canary})
    elif place == "nested":
        log.info("saw", extra={"what": {"deep": [canary, {canary: 1}]}})
    else:
        try:
            raise ValueError(canary)  # noqa: TRY301 — the traceback is what is tested
        except ValueError:
            log.exception("failed")
    line = capsys.readouterr().err
    secret = canary.rsplit("user:", maxsplit=1)[-1].split("@", maxsplit=1)[0].rsplit(" ", maxsplit=1)[-1]
    assert secret not in line
    assert logs.REDACTED in line
    assert json.loads(line)["level"] in ("info", "error")


@pytest.mark.parametrize("name", ["authorization", "X-Api-Key", "password"])
def test_a_value_under_a_credentials_name_goes_whatever_its_form(name: str) -> None:
    assert logs.redacted({name: "plain"}) == {name: logs.REDACTED}


def test_a_secret_is_redacted_and_plain_values_stay() -> None:
    assert logs.redacted({"a": Secret(b"x"), "b": 3, "c": None, "d": "acme", "e": b"bytes"}) == {
        "a": logs.REDACTED,
        "b": 3,
        "c": None,
        "d": "acme",
        "e": "bytes",
    }


def test_the_sampler_bounds_a_second_and_tells_what_it_held_back() -> None:
    sampler = logs.Sampler(3)
    assert [sampler.allows(10.0 + n / 10) for n in range(5)] == [True, True, True, False, False]
    assert sampler.allows(11.0)
    assert (sampler.take_suppressed(), sampler.take_suppressed()) == (2, 0)
