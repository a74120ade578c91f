"""The sections `plans`, `default_plan` and `failure_mode` of the gateway file."""

import re
from typing import cast

from extauthz.errors import Malformed
from extauthz.gateway.model import Algorithm, FailureMode, Level, Limit, Plan
from extauthz.gateway.names import LIMIT_NAME, NAME
from extauthz.gateway.section import Problems, Section, shown
from extauthz.gateway.tree import Items, Node, Text
from extauthz.gateway.units import LIMIT_ALLOWED, parse_limit

PLANS_MAX = 64
#: Every limit of a plan is in the argument list of every admission.
LIMITS_MAX = 16
SIDECARS_MAX = 10_000

_PER_ALLOWED = "tenant, key, endpoint, global, [key, endpoint] or [global, endpoint]; each but global within one tenant"
_PER: dict[frozenset[str], tuple[Level, ...]] = {
    frozenset(("tenant",)): ("tenant",),
    frozenset(("key",)): ("key",),
    frozenset(("endpoint",)): ("endpoint",),
    frozenset(("global",)): ("global",),
    frozenset(("key", "endpoint")): ("key", "endpoint"),
    frozenset(("global", "endpoint")): ("global", "endpoint"),
}
_MODE_ALLOWED = "refuse, or {local_share: 0.5, sidecars: 4}"
_SHARE = re.compile(r"0(\.[0-9]{1,4})?|1(\.0{1,4})?")
_REFUSE = FailureMode()


def read_plans(root: Section, problems: Problems) -> dict[str, Plan]:
    """Every plan by its name. A plan without a failure mode has the file's."""
    default = _failure_mode(root, _REFUSE)
    plans = {}
    for name, line, node in root.named("plans", NAME, PLANS_MAX):
        section = Section(problems, line, node, f"plan {name}", ("limits", "failure_mode"))
        plans[name] = Plan(name, _limits(section), _failure_mode(section, default))
    return plans


def read_default_plan(root: Section, plans: dict[str, Plan]) -> str:
    """The plan of a tenant that names none."""
    allowed = ", ".join(plans) or "the name of a plan"
    name = root.text("default_plan", allowed)
    if name and name not in plans:
        root.wrong("default_plan", f"is {name!r}", allowed)
    return name


def _limits(section: Section) -> tuple[Limit, ...]:
    limits = []
    for name, line, node in section.named("limits", LIMIT_NAME, LIMITS_MAX):
        fields = Section(section.problems, line, node, f"{section.title}: limit {name}", ("per", "limit", "algorithm"))
        text = fields.text("limit", LIMIT_ALLOWED)
        count, window_ms = _amount(fields, text)
        algorithm = cast("Algorithm", fields.choice("algorithm", ("fixed", "sliding"), "fixed"))
        limits.append(Limit(name, _per(fields), count, window_ms, algorithm))
    return tuple(limits)


def _amount(fields: Section, text: str) -> tuple[int, int]:
    try:
        return parse_limit(text) if text else (1, 1_000)
    except Malformed:
        fields.wrong("limit", f"is {text[:60]!r}", LIMIT_ALLOWED)
        return 1, 1_000


def _per(fields: Section) -> tuple[Level, ...]:
    node: Node | None = fields.node("per")
    if node is None:
        fields.missing("per", _PER_ALLOWED)
        return ("tenant",)
    parts = node.items if isinstance(node, Items) else [node]
    words = [part.text for part in parts if isinstance(part, Text)]
    levels = _PER.get(frozenset(words))
    if levels is None or len(words) != len(parts) or len(set(words)) != len(words):
        written = f"[{', '.join(words)}]" if isinstance(node, Items) else shown(node)
        fields.wrong("per", f"is {written[:80]}", _PER_ALLOWED)
        return ("tenant",)
    return levels


def _failure_mode(section: Section, default: FailureMode) -> FailureMode:
    node = section.node("failure_mode")
    if node is None:
        return default
    if isinstance(node, Text):
        if node.text != "refuse":
            section.wrong("failure_mode", f"is {shown(node)}", _MODE_ALLOWED)
        return _REFUSE
    title = f"{section.title}: failure_mode"
    fields = Section(section.problems, section.line_of("failure_mode"), node, title, ("local_share", "sidecars"))
    share = fields.text("local_share", "0 to 1, at most four decimals")
    if share and not _SHARE.fullmatch(share):
        fields.wrong("local_share", f"is {share[:60]!r}", "0 to 1, at most four decimals")
        share = "0"
    if "sidecars" not in fields:
        # Guessing one where there are four would admit four times the share.
        fields.missing("sidecars", f"how many sidecar workers share the limits, 1 to {SIDECARS_MAX}")
    return FailureMode(float(share or 0), fields.integer("sidecars", 1, SIDECARS_MAX, 1))
