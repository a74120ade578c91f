"""Rules about the clusters: the way to the sidecar, and the headers of each attempt at a provider."""

import re
from collections.abc import Iterator

from extauthz.envoy_config.configuration import Configuration
from extauthz.envoy_config.document import Part
from extauthz.envoy_config.rules.header_mutation import MUTATION, removes
from extauthz.envoy_config.rules.listeners import is_loopback
from extauthz.envoy_config.rules.rule import Found, Options, Rule
from extauthz.gateway import headers

_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_ROOTS = ("trusted_ca", "system_root_certs", "ca_certificate_provider_instance")
_NAMES = ("match_typed_subject_alt_names", "match_subject_alt_names")
_PINS = ("verify_certificate_hash", "verify_certificate_spki")
_OF_THE_TENANT = re.compile(r"filter_state|FILTER_STATE|" + re.escape(headers.CREDENTIAL_PREFIX))


def appended_upstream(configuration: Configuration, _: Options) -> Iterator[Found]:
    for each in configuration.upstream_filters():
        if each.type_name != MUTATION:
            continue
        removing: list[Part] = []
        for mutation in each.body.get("mutations", "request_mutations").items():
            removing.append(mutation)
            key, value = (mutation.get("append", "header", name) for name in ("key", "value"))
            name = key.text.lower()
            carries = name in headers.CLIENT_CREDENTIALS or _OF_THE_TENANT.search(value.text)
            if name and carries and not any(removes(earlier, name) for earlier in removing):
                yield key.line, f"{name} is set for each attempt and not removed before"


def unverified_sidecar(configuration: Configuration, _: Options) -> Iterator[Found]:
    for cluster in configuration.sidecar_clusters():
        sockets = [
            cluster.get("transport_socket"),
            *(part.get("transport_socket") for part in cluster.get("transport_socket_matches").items()),
        ]
        # A socket may wrap another: a proxy protocol around TLS.
        contexts = [[part for part in socket.walk() if part.type_name == _TLS] for socket in sockets if socket]
        for part in (part for found in contexts for part in found):
            yield from _unverified(part)
        if not contexts or not all(contexts):
            yield from _plain(cluster)
    for each in configuration.all_ours():
        google = each.body.get("grpc_service", "google_grpc")
        target = google.get("target_uri")
        host = target.text.rpartition("/")[2].rpartition(":")[0].strip("[]")
        is_local = target.text.startswith("unix:") or is_loopback(host)
        if target and not is_local and not google.get("channel_credentials", "ssl_credentials"):
            yield target.line, f"the sidecar at {target.text} is reached without TLS"


def _unverified(tls: Part) -> Iterator[Found]:
    context = tls.body.get("common_tls_context")
    combined = context.get("combined_validation_context")
    validation = context.get("validation_context") or combined.get("default_validation_context")
    distrusted = validation.get("trust_chain_verification")
    if distrusted.text in ("ACCEPT_UNTRUSTED", "1"):
        yield distrusted.line, "the sidecar's certificate is accepted whoever signed it"
        return
    # What is delivered is not in the file; a pinned certificate needs neither root nor name.
    delivered = (context.get("validation_context_sds_secret_config"), combined.get("validation_context_sds_secret_config"))
    if any(delivered) or any(validation.get(name) for name in _PINS):
        return
    if not any(validation.get(name) for name in _ROOTS):
        yield tls.line, "the sidecar's certificate is not verified"
    elif not any(validation.get(name) for name in _NAMES) and not tls.body.get("auto_sni_san_validation").is_true:
        yield tls.line, "the sidecar's certificate may name anybody"


def _plain(cluster: Part) -> Iterator[Found]:
    for part in cluster.get("load_assignment").walk():
        address = part.get("socket_address", "address")
        if address and not is_loopback(address.text):
            yield address.line, f"the sidecar at {address.text} is reached without TLS"


RULES = (
    Rule(
        "19-appended-upstream",
        "what one attempt sets is still there in the next, so a second provider gets the first one's credential",
        "remove: the header, before append, in the same header_mutation",
        appended_upstream,
    ),
    Rule(
        "27-unverified-sidecar",
        "whoever stands between answers every Check with an allow, and reads the credentials in ours",
        "a Unix socket or loopback, or TLS with validation_context: {trusted_ca: …, match_typed_subject_alt_names: …}",
        unverified_sidecar,
    ),
)
