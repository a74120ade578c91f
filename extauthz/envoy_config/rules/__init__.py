"""The rules of envoy-check, by theme; each module ends with its table."""

from extauthz.envoy_config.rules import clusters, ext_authz, files, filters, http_connection_manager, listeners, logs, routes
from extauthz.envoy_config.rules.rule import Rule

_THEMES = (clusters, ext_authz, files, filters, http_connection_manager, listeners, logs, routes)
#: All of them, in the order of their numbers.
RULES: tuple[Rule, ...] = tuple(sorted((rule for theme in _THEMES for rule in theme.RULES), key=lambda rule: rule.id))
