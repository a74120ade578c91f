"""One whole system for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.through import Through, through


@pytest.fixture(scope="session")
def running_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    with through(tmp_path_factory.mktemp("system")) as one:
        yield one


@pytest.fixture
def system(running_system: Through) -> Through:
    """The system with providers that answer and have seen nothing. Do not stop a part of it: start one of your own for that."""
    for provider in running_system.providers.values():
        provider.failing = 0
        provider.answers_with = ()
    running_system.forget()
    return running_system
