"""Only "not here" leads to the next place: no error of one place is answered with what another holds."""

import pytest

from extauthz.credentials.chain import Chain
from extauthz.credentials.errors import DoesNotOpen, UnknownKek
from extauthz.errors import ExtauthzError, Malformed, Missing, Unavailable
from extauthz.secret import Secret
from tests.credentials.places import REF, Shelf

OLD = Secret(b"sk-old")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (Secret(b"sk-1"), Secret(b"sk-1")),
        (Missing("none"), OLD),
        (Unavailable("down"), Unavailable),
        (DoesNotOpen("refused"), DoesNotOpen),
        (UnknownKek("none"), UnknownKek),
        (Malformed("cut off"), DoesNotOpen),
        (ExtauthzError("WRONGTYPE"), DoesNotOpen),
        (RuntimeError("a bug"), RuntimeError),
        (TimeoutError(), TimeoutError),
    ],
    ids=repr,
)
async def test_only_missing_leads_to_the_next_place(first: Secret | BaseException, expected: object) -> None:
    later = Shelf({REF: OLD})
    chain = Chain([Shelf({REF: first}), later])
    if isinstance(expected, type) and issubclass(expected, Exception):
        with pytest.raises(expected):
            await chain.get(REF)
        assert later.asked == []
    else:
        assert await chain.get(REF) == expected


async def test_missing_everywhere_is_missing() -> None:
    shelves = [Shelf(), Shelf()]
    with pytest.raises(Missing, match="version 1 of acme's openai/default"):
        await Chain(shelves).get(REF)
    with pytest.raises(Missing, match="the platform's"):
        await Chain([]).get(REF._replace(tenant_id=""))
    assert [shelf.asked for shelf in shelves] == [[REF], [REF]]


async def test_a_tenant_without_a_secret_does_not_get_the_platforms() -> None:
    shelf = Shelf({REF._replace(tenant_id=""): OLD, REF._replace(tenant_id="other"): OLD, REF._replace(version=2): OLD})
    with pytest.raises(Missing):
        await Chain([shelf]).get(REF)
