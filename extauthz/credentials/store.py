"""What a place for secrets is: the seam for every vault. The data plane needs only `CredentialSource`."""

from typing import NamedTuple, Protocol

from extauthz.credentials.envelope import Context
from extauthz.secret import Secret


class SecretRef(NamedTuple):
    """One version of one secret, for ever the same value. Holds nothing secret.

    Attributes:
        tenant_id: empty for the platform's own.
        version: from 1; a new value is a new version.
    """

    tenant_id: str
    provider: str
    name: str
    version: int

    def context(self) -> Context:
        """What an envelope of it is bound to."""
        return Context(*self, "credential")


class CredentialSource(Protocol):
    """Where a secret can be read."""

    async def get(self, ref: SecretRef) -> Secret:
        """The value of exactly this version.

        Raises Missing (the place answered: it has none, the next may be asked), Unavailable (it did not answer: nothing is known,
        no other place is asked), DoesNotOpen or Malformed (it has one that cannot be used: nothing else is asked either).
        """


class CredentialStore(CredentialSource, Protocol):
    """Where secrets are kept. Every method raises Unavailable when the store does not answer."""

    async def put(self, tenant_id: str, provider: str, name: str, value: Secret) -> SecretRef:
        """Keep a value as a new version, higher than any before. An unknown outcome leaves at most a version nobody names."""

    async def delete(self, ref: SecretRef) -> None:
        """Remove one version; one that is not there is no error. Memories of it end within minutes, or by a new document."""

    async def list(self, tenant_id: str) -> tuple[SecretRef, ...]:
        """Every version of the tenant that can be read, sorted; the platform's when the tenant id is empty."""

    async def health(self) -> None:
        """Return when the store answers."""
