"""Master key files: the forms that are read, and for every other one a text that says what to do and holds nothing of the file."""

import os
from pathlib import Path

import pytest

from extauthz.credentials.keyring import Keyring, LocalKek, load
from extauthz.errors import BadConfig, Problem
from extauthz.secret import Secret

KEY = bytes(range(100, 132))
ALLOWED = "64 hex digits (openssl rand -hex 32) or 32 raw bytes"


def _file(folder: Path, content: bytes, name: str = "master.key", mode: int = 0o600) -> Path:
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "content",
    [KEY, KEY.hex().encode(), KEY.hex().encode() + b"\n", KEY.hex().encode() + b"\r\n", KEY.hex().upper().encode()],
    ids=["raw", "hex", "hex and a line end", "hex and a Windows line end", "HEX"],
)
def test_every_form_of_a_file_is_the_same_key(tmp_path: Path, content: bytes) -> None:
    assert load([_file(tmp_path, content)]).ids == Keyring([LocalKek(Secret(KEY))]).ids


def test_a_raw_key_may_end_with_the_byte_of_a_line_end(tmp_path: Path) -> None:
    key = KEY[:-1] + b"\n"
    assert load([_file(tmp_path, key)]).ids == Keyring([LocalKek(Secret(key))]).ids


def test_the_id_of_a_key_never_changes() -> None:
    """It stands in every envelope: another derivation would make all of them unreadable."""
    assert LocalKek(Secret(KEY)).id == "68795ab1b245cf08"


def test_the_first_file_seals_and_all_open(tmp_path: Path) -> None:
    files = [_file(tmp_path, os.urandom(32), f"{number}.key") for number in range(3)]
    ids = [load([file]).primary.id for file in files]
    assert load(files).ids == tuple(ids)
    assert load(files).primary.id == ids[0]
    assert [load(files).by_id(kek_id).id for kek_id in ids] == ids


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "holds 0 bytes that are no master key"),
        (b"\n", "holds 1 bytes that are no master key"),
        (KEY[:31], "holds 31 bytes that are no master key"),
        (KEY + b"x", "holds 33 bytes that are no master key"),
        (KEY.hex().encode()[:-1], "holds 63 hex digits"),
        (KEY.hex().encode()[:32], "holds 32 hex digits"),
        (KEY.hex().encode()[:32] + b"\n", "holds 32 hex digits"),
        (KEY.hex().encode() * 2, "holds 128 hex digits"),
        (KEY.hex().encode() + b"\n\n", "holds 66 bytes that are no master key"),
        (b" " + KEY.hex().encode(), "holds 65 bytes that are no master key"),
        (b"0x" + KEY.hex().encode(), "holds 66 bytes that are no master key"),
        (b"\xef\xbb\xbf" + KEY.hex().encode(), "holds 67 bytes that are no master key"),
        (KEY * 200, "holds 4096 bytes that are no master key"),
        (bytes(32), "holds a key that is not random"),
        (b"0" * 64, "holds a key that is not random"),
        (b"changeme" * 4, "holds a key that is not random"),
    ],
)
def test_what_is_no_master_key_is_refused_and_not_shown(tmp_path: Path, content: bytes, what: str) -> None:
    path = _file(tmp_path, content)
    with pytest.raises(BadConfig) as caught:
        load([path])
    assert caught.value.problems == (Problem(str(path), 0, f"the master key file {what}", ALLOWED),)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o601, 0o666, 0o777])
def test_a_file_for_everybody_is_read_with_a_warning(tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    """`openssl rand -hex 32 > master.key` makes one, and so does a mounted Kubernetes secret."""
    path = _file(tmp_path, KEY, mode=mode)
    assert load([path]).ids
    assert [record.getMessage() for record in caplog.records] == [
        f"the master key file {path} can be read or written by every user (mode {mode:04o}): chmod 600 {path}"
    ]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_file_for_its_owner_or_group_is_read(tmp_path: Path, mode: int) -> None:
    assert load([_file(tmp_path, KEY, mode=mode)]).ids


def test_a_link_is_followed_to_what_is_checked(tmp_path: Path) -> None:
    """As Kubernetes mounts a secret."""
    (tmp_path / "link").symlink_to(_file(tmp_path, KEY))
    assert load([tmp_path / "link"]).ids


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(BadConfig) as caught:
        load([tmp_path / "absent", tmp_path, tmp_path / "pipe"])
    assert [problem.what for problem in caught.value.problems] == [
        "the master key file cannot be read: No such file or directory",
        "the master key file is not a file",
        "the master key file is not a file",
    ]


def test_every_bad_file_is_told_at_once(tmp_path: Path) -> None:
    files = [_file(tmp_path, KEY), _file(tmp_path, KEY.hex().encode(), "again"), _file(tmp_path, b"short", "short")]
    with pytest.raises(BadConfig) as caught:
        load(files)
    assert [(problem.file, problem.what) for problem in caught.value.problems] == [
        (str(files[1]), "holds the same master key as a file before it"),
        (str(files[2]), "the master key file holds 5 bytes that are no master key"),
    ]
    with pytest.raises(BadConfig, match="EXTAUTHZ_MASTER_KEY_FILE: names no file"):
        load([])


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_kek_of_another_length_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        LocalKek(Secret(bytes(length)))


@pytest.mark.parametrize("kek_id", ["a-b", "ü", "x" * 256, "a/b"])
def test_an_id_that_no_envelope_can_name_is_an_error(kek_id: str) -> None:
    with pytest.raises(ValueError, match="letters and digits"):
        Keyring([LocalKek(Secret(KEY), kek_id)])


def test_a_keyring_has_each_key_once_and_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Keyring([])
    with pytest.raises(ValueError, match="each once"):
        Keyring([LocalKek(Secret(KEY)), LocalKek(Secret(KEY))])


def test_a_kek_does_not_show_its_key() -> None:
    kek = LocalKek(Secret(KEY))
    assert repr(kek) == f"LocalKek({kek.id})"
