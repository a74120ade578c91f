"""The places where a secret may be, in order. Only "not here" leads to the next; every other answer ends the search."""

from collections.abc import Sequence

from extauthz.credentials.errors import DoesNotOpen
from extauthz.credentials.store import CredentialSource, SecretRef
from extauthz.errors import ExtauthzError, Missing, Unavailable
from extauthz.secret import Secret


class Chain:
    """A CredentialSource made of several, the first asked first."""

    __slots__ = ("_sources",)

    def __init__(self, sources: Sequence[CredentialSource]) -> None:
        self._sources = tuple(sources)

    async def get(self, ref: SecretRef) -> Secret:
        """The value from the first place that has it.

        Raises Missing when every place answered that it has none, and else what the first other answer says: Unavailable, or
        DoesNotOpen for a secret that is there and of no use. A place further on is never asked then: it could hold an older value.
        """
        for source in self._sources:
            try:
                return await source.get(ref)
            except Missing:
                continue
            except Unavailable:
                raise
            except ExtauthzError as error:
                raise DoesNotOpen(f"a secret is stored in a form that cannot be read: {error}") from error
        raise Missing(f"no place has version {ref.version} of {ref.tenant_id or 'the platform'}'s {ref.provider}/{ref.name}")
