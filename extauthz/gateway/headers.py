"""The names of the headers that are ours, and of those in which clients send credentials. The decision sets and removes them, the
rendered Envoy configuration strips and copies them, and both must mean the same names.
"""

#: Everything that begins so is ours: stripped from every client at Envoy's first filter.
INTERNAL_PREFIX = "x-extauthz-"
#: Names the cluster, and so the chain of providers, that the decision chose.
CHAIN = "x-extauthz-chain"
#: Followed by a provider's name: the formatted credential header value for that provider's attempts, set only when a chain has
#: more than one provider and Envoy declared that it moves these into filter state.
CREDENTIAL_PREFIX = "x-extauthz-credential-"
#: The identity that a `credential: none` provider gets.
TENANT = "x-extauthz-tenant"
KEY_ID = "x-extauthz-key-id"
SCOPE = "x-extauthz-scope"
IDENTITY = (TENANT, KEY_ID, SCOPE)

#: A client may say which tenant it means; one that differs from its key's is refused. Removed before the request goes upstream.
CLIENT_TENANT = "x-tenant-id"
#: Where a client's key may stand, in the order in which they are read. Two that differ are refused.
CLIENT_KEY = ("x-api-key", "authorization", "api-key", "x-goog-api-key")
#: Never passed to a provider, whatever they hold, except the one that the decision itself sets.
CLIENT_CREDENTIALS = (*CLIENT_KEY, "proxy-authorization", "x-bf-vk", "cookie")
#: Query parameters in which some providers accept a credential.
CLIENT_CREDENTIAL_PARAMETERS = ("key", "api_key", "api-key", "access_token")

#: The key in ext_authz's context_extensions by which a rendered Envoy says that it keeps a chain's credentials apart. Without it a
#: decision names one provider only.
CHAIN_EXTENSION = "extauthz.chain"
CHAIN_EXTENSION_VALUE = "v1"
#: The dynamic metadata namespace that json_to_metadata fills and ext_authz passes on, and its fields.
LLM_NAMESPACE = "llm"
LLM_MODEL = "model"
#: Present, with whatever value, when another spelling of `model` (`Model`, `MODEL`, …) stands in the body.
LLM_OTHER_SPELLING = "other_spelling"
#: `missing`, when the body is read and has no model, or `error`, when it cannot be read: the model in it is not known.
LLM_PROBLEM = "problem"
LLM_PROBLEM_MISSING = "missing"
#: The namespace in which Envoy files the dynamic metadata of a CheckResponse.
EXT_AUTHZ_NAMESPACE = "envoy.filters.http.ext_authz"
