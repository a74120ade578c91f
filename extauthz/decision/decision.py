"""What a decision hands to the door: an allow that can only be made of every step's result. A refusal is an exception.

A `Passage` is what steps 2 to 5 found for one identity on one route: pure in documents, policy, breaker states and credentials, so
it may be remembered as long as none of them changed. The last step is never remembered: every request is admitted by Redis.
"""

from dataclasses import dataclass
from typing import Any

from extauthz.admission.admit import Prepared
from extauthz.decision.policy import CompiledRoute
from extauthz.gateway.model import FailureMode, Provider
from extauthz.secret import Secret
from extauthz.tenants.cache import Identity


@dataclass(frozen=True, slots=True)
class Link:
    """A provider of a chain and the tenant's credential for it; None only for an internal service, which takes none."""

    provider: Provider
    credential: Secret | None

    def __post_init__(self) -> None:
        if (self.credential is None) != self.provider.is_internal:
            raise ValueError(f"provider {self.provider.name}: a credential is needed exactly when the provider takes one")


class Passage:
    """The results of the steps before admission, and the command that admits.

    Attributes:
        era: compared by identity with the checker's: another policy or another breaker state is another era.
        valid_until: the loop's time after which a credential in it is no longer fresh.
        door: what the door above has made of this passage, such as the fixed part of its answer; None until then.
    """

    __slots__ = ("chain", "door", "era", "failure_mode", "identity", "prepared", "route", "takes_chain", "valid_until")

    def __init__(
        self,
        identity: Identity,
        route: CompiledRoute,
        chain: tuple[Link, ...],
        prepared: Prepared,
        failure_mode: FailureMode,
        era: object,
        valid_until: float,
        *,
        takes_chain: bool,
    ) -> None:
        if not chain:
            raise ValueError("a passage leads to a provider")
        self.identity = identity
        self.route = route
        self.chain = chain
        self.prepared = prepared
        self.failure_mode = failure_mode
        self.era = era
        self.valid_until = valid_until
        self.takes_chain = takes_chain
        self.door: Any = None


class Allowed:
    """The request may pass, and it was counted.

    Attributes:
        rule: the index of the tightest limit in `passage.prepared.rules`, -1 when no limit applies.
        remaining: requests left of it.
        reset_ms: milliseconds until its window ends.
    """

    __slots__ = ("passage", "remaining", "reset_ms", "rule")

    def __init__(self, passage: Passage, rule: int, remaining: int, reset_ms: int) -> None:
        self.passage = passage
        self.rule = rule
        self.remaining = remaining
        self.reset_ms = reset_ms
