"""`extauthz check-config --json`: what scripts read. What people read is in transcripts/check-config.txt."""

import hashlib
import json
from pathlib import Path

import pytest

from extauthz.cli.main import run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "envoy" / "gateway.yaml"


def test_json_of_a_good_file_counts_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-config", "--json", str(EXAMPLE)]) == 0
    digest = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "providers": 9,
        "scopes": 8,
        "routes": 12,
        "plans": 3,
        "digest": digest,
    }


def test_json_of_a_bad_file_has_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("x: 1\n")
    assert run(["check-config", str(path), "--json"]) == 1
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert (told["ok"], shown.err) == (False, "")
    assert [(problem["file"], problem["line"]) for problem in told["problems"]] == [(str(path), 1)] * 6
