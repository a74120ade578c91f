"""A key is told from junk with no I/O, and no two keys are near each other."""

import hashlib
import re
import timeit
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.errors import Malformed
from extauthz.tenants.api_key import KEY_LENGTH_MAX, digest_of, is_key_id, key_id_of, mint

KEY = "xa_live_abcdefghij234567_0123456789ABCDEFGHIJKLMNOPQRSTUV"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def checksum(body: str) -> str:
    """The slow obvious oracle."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    assert number == 0
    return digits


def text_of(env: str) -> tuple[str, str, bytes]:
    key, key_id, digest = mint(env)
    return key.reveal().decode(), key_id, digest


@given(st.from_regex(r"[a-z]{1,8}", fullmatch=True))
def test_every_minted_key_is_taken_and_names_its_id(env: str) -> None:
    key, key_id, digest = text_of(env)
    assert key_id_of(key) == key_id
    assert is_key_id(key_id)
    assert digest == digest_of(key) == digest_of(key.encode()) == hashlib.sha256(key.encode()).digest()
    assert re.fullmatch(rf"xa_{env}_{key_id}_[0-9A-Za-z]{{38}}", key)
    assert len(key) <= KEY_LENGTH_MAX
    assert key[-6:] == checksum(key[:-6])


def test_a_key_of_another_implementation_of_the_format_is_taken() -> None:
    """gzip says that the CRC-32 of KEY is 2,634,361,017."""
    assert checksum(KEY) == "2sHVdp"
    assert key_id_of(KEY + "2sHVdp") == "abcdefghij234567"


def test_two_keys_share_neither_id_nor_secret_and_use_every_digit() -> None:
    keys = [text_of("live") for _ in range(500)]
    assert len({key_id for _, key_id, _ in keys}) == 500
    secrets = [key.split("_")[3][:32] for key, _, _ in keys]
    assert len(set(secrets)) == 500
    assert set("".join(secrets)) == set(BASE62)


@pytest.mark.parametrize("env", ["live", "a", "abcdefgh"])
def test_every_change_of_one_character_is_refused(env: str) -> None:
    key, _, _ = text_of(env)
    others = BASE62 + "_-. \n\x00é\uff41"
    for place, was in enumerate(key):
        for other in others:
            if other != was:
                with pytest.raises(Malformed):
                    key_id_of(key[:place] + other + key[place + 1 :])


def test_every_truncation_insertion_and_swap_is_refused() -> None:
    key, _, _ = text_of("live")
    changed = [key[:end] for end in range(len(key))]
    changed += [key[:place] + key[place + 1 :] for place in range(len(key))]
    changed += [key[:place] + extra + key[place:] for place in range(len(key) + 1) for extra in "aA0_\n "]
    changed += [key[:place] + key[place + 1] + key[place] + key[place + 2 :] for place in range(len(key) - 1)]
    changed += [key.upper(), key.lower(), key + key, " " + key, key + "\n", "Bearer " + key]
    for junk in changed:
        if junk != key:
            with pytest.raises(Malformed):
                key_id_of(junk)


@given(st.text(max_size=200) | st.from_regex(r"xa_[a-z]{1,9}_[a-z2-7]{15,17}_[0-9A-Za-z]{37,39}\n?", fullmatch=True))
def test_junk_is_refused_and_never_repeated(junk: str) -> None:
    if junk[-6:] == checksum(re.sub(r"[^\x00-\x7f]", "", junk[:-6])):
        return
    with pytest.raises(Malformed, match=r"^not an API key$"):
        key_id_of(junk)


@pytest.mark.parametrize("env", ["", "LIVE", "live1", "abcdefghi", "a_b", "live\n", "é"])
def test_no_key_for_an_environment_outside_its_alphabet(env: str) -> None:
    with pytest.raises(Malformed):
        mint(env)


def test_a_minted_key_is_not_shown_by_accident() -> None:
    key, _, _ = mint("live")
    assert key.reveal().decode() not in f"{key!r}{key}{[key]}"


def test_junk_of_any_size_costs_no_more_than_a_key() -> None:
    """The pattern ends within 67 characters: a megabyte costs what a key costs, give or take a slow machine."""
    key, _, _ = text_of("live")
    huge = key[:-6] + "a" * 1_000_000

    def refuse() -> None:
        with pytest.raises(Malformed):
            key_id_of(huge)

    assert min(timeit.repeat(refuse, number=20, repeat=3)) / 20 < 0.0005
