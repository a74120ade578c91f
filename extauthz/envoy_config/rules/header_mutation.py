"""What a header mutation removes, as several rules ask it. Only what is certain counts, not an expression that might match."""

from extauthz.envoy_config.document import Part

MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
EARLY_MUTATION = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"


def removes(mutation: Part, name: str) -> bool:
    """Whether this mutation removes the header of this lower-case name; with a name that ends in `*`, all that begin so."""
    matcher = mutation.get("remove_on_match", "key_matcher")
    prefix, contains, exact = (matcher.get(kind).text.lower() for kind in ("prefix", "contains", "exact"))
    start = name.removesuffix("*")
    if (prefix and start.startswith(prefix)) or (contains and contains in start):
        return True
    return name in (mutation.get("remove").text.lower(), exact)
