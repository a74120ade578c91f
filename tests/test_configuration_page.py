"""docs/configuration.md leaves out nothing that can be configured."""

import re
from pathlib import Path

import pytest

from extauthz.gateway import load, routes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
VARIABLES = sorted(set(re.findall(r'"(EXTAUTHZ_[A-Z_]+)"', (ROOT / "extauthz" / "settings.py").read_text())))
FIELDS = sorted(
    {
        field
        for name in ("load", "providers", "routes", "plans")
        for fields in re.findall(r'\((?:"[a-z_]+", )+"[a-z_]+"\)', (ROOT / "extauthz" / "gateway" / f"{name}.py").read_text())
        for field in re.findall(r'"([a-z_]+)"', fields)
    }
)


def test_the_names_are_found_in_the_source() -> None:
    assert len(VARIABLES) == 10, VARIABLES
    assert set(load._SECTIONS) | set(load._LISTENER_FIELDS) | set(routes._FIELDS) <= set(FIELDS)
    assert {"address", "credential", "ca_file", "header", "format", "models", "per", "limit", "algorithm", "local_share"} <= set(
        FIELDS
    )


@pytest.mark.parametrize("name", VARIABLES)
def test_page_explains_every_variable(name: str) -> None:
    assert f"| `{name}` |" in PAGE


@pytest.mark.parametrize("name", FIELDS)
def test_page_explains_every_field(name: str) -> None:
    assert re.search(rf"`([a-z]+\.)*([A-Z]+\.)?{name}`|\b{name}: ", PAGE)
