"""Everything a command shows: standard output for what was asked for, standard error for what went wrong. The only print.

People get aligned columns, on a terminal through rich; scripts ask for `--json` and get nothing else. What stands in a cell may
come from somebody else (a key's name), so nothing unprintable reaches a terminal.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def line(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def error(text: str) -> None:
    """One line, or one for each problem, on standard error."""
    for part in text.splitlines() or [""]:
        sys.stderr.write(f"{printable(part)}\n")


def note(text: str) -> None:
    """One line on standard error for people, beside what a script reads from standard output."""
    error(text)


def flush() -> None:
    """Hand over what is still held back. Raises OSError when nobody takes it: a full disk, a closed pipe."""
    sys.stdout.flush()


def drop() -> None:
    """Forget what is still held back, so that the end of the process does not try it again."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def document(text: str) -> None:
    """A whole document as it is, such as a rendered configuration; a final newline is added when it has none."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def as_json(value: Any) -> None:
    """A value for scripts: JSON in ASCII, two blanks of indent, keys in the order given."""
    sys.stdout.write(f"{json.dumps(value, indent=2)}\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows for people. Without rows, the columns' names alone."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cells)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (list(columns), *cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{text.rstrip()}\n")


def printable(text: str) -> str:
    """The text with every control character, line break and other unprintable character as its escape."""
    return text if text.isprintable() else "".join(mark if mark.isprintable() else _escaped(mark) for mark in text)


def _escaped(mark: str) -> str:
    return mark.encode("unicode_escape", "backslashreplace").decode("ascii")


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    # Imported only here: it takes longer than everything else a command does.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        # As Text: square brackets in a cell are no markup.
        drawn.add_row(*map(Text, row))
    Console().print(drawn)
