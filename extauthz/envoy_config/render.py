"""From the operator's gateway file to a complete Envoy configuration. Checks nothing: `check.py` does, for any configuration."""

from collections.abc import Sequence

from extauthz.envoy_config.clusters import clusters
from extauthz.envoy_config.listener import listener
from extauthz.envoy_config.yaml_text import Node, to_yaml, typed
from extauthz.gateway.model import Gateway
from extauthz.settings import Listen

_HEAD = """\
# A complete Envoy configuration, rendered by `extauthz envoy-config`. Change the gateway file and render again: the sidecar
# decides by the same file, and what it names (chains, headers, metadata) must be what stands here.
"""
DOWNSTREAM_CONNECTIONS_MAX = 50_000


def render(gateway: Gateway, listens: Sequence[Listen]) -> str:
    """The configuration as YAML.

    Args:
        listens: where the sidecar's workers listen, one or more.
    """
    return _HEAD + to_yaml(bootstrap(gateway, listens))


def bootstrap(gateway: Gateway, listens: Sequence[Listen]) -> Node:
    """The configuration as `envoy.config.bootstrap.v3.Bootstrap`, in JSON's types."""
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": gateway.listener.admin_port}}},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=DOWNSTREAM_CONNECTIONS_MAX,
                    ),
                }
            ]
        },
        "static_resources": {"listeners": [listener(gateway)], "clusters": clusters(gateway, listens)},
    }
