"""The table of scripts/mutants.py keeps up with the code it breaks; `make mutants` runs it."""

from pathlib import Path

import pytest

from scripts.mutants import FAILED, MUTANTS, PASSED, ROOT, Mutant, broken, run_tests


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.promise}: {mutant.what}")
def test_a_row_has_its_line_its_test_and_its_promise(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    named = [word.partition("::") for word in mutant.test.split() if word.startswith("tests/")]
    assert named
    for file, _, function in named:
        assert f"def {function}" in (ROOT / file).read_text()
    assert f"| {mutant.promise} |" in (ROOT / "docs" / "reliability.md").read_text()


def test_the_breaks_of_one_table_are_not_one_break() -> None:
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


def test_a_broken_tree_is_what_runs_and_a_test_that_does_not_run_is_no_catch(tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text("def answer() -> int:\n    return 1\n")
    (tmp_path / "test_room.py").write_text("from room import answer\n\ndef test_it() -> None:\n    assert answer() == 1\n")
    assert run_tests(tmp_path, "test_room.py")[0] == PASSED
    broken(Mutant("1", "x", "room.py", "return 1", "return 2", "test_room.py"), tmp_path)
    assert run_tests(tmp_path, "test_room.py")[0] == FAILED
    (tmp_path / "room.py").write_text("no python")
    assert run_tests(tmp_path, "test_room.py")[0] not in {PASSED, FAILED}
    assert run_tests(tmp_path, "test_other.py")[0] not in {PASSED, FAILED}


def test_a_line_that_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text("return 1\nreturn 1\n")
    for old in ("return 1", "return 3"):
        with pytest.raises(ValueError, match="times"):
            broken(Mutant("1", "x", "room.py", old, "", "test_room.py"), tmp_path)
