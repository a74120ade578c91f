"""Step 2: whose key is this? From the headers of a request to the key that was sent, and from the key to its identity.

There is no anonymous tenant: a request either has an identity whose documents name it, or is refused.
"""

import hashlib

from extauthz.decision import refusals
from extauthz.decision.request import Request
from extauthz.errors import Malformed, Missing
from extauthz.tenants.api_key import key_id_of
from extauthz.tenants.cache import Identities, Identity


def digest_of_sent_key(request: Request) -> tuple[bytes, str]:
    """The SHA-256 of the one key that the request carries, and the key.

    Raises:
        Refusal: key_missing; key_ambiguous when two headers carry different keys; key_malformed when it cannot be a key's bytes.
    """
    key = request.x_api_key
    authorization = request.authorization
    if authorization:
        scheme, _, sent = authorization.partition(" ")
        if scheme.lower() != "bearer" or not sent:
            raise refusals.unauthenticated("key_malformed", "the authorization header is no bearer token")
        key = _one_of(key, sent)
    if request.api_key:
        key = _one_of(key, request.api_key)
    if request.x_goog_api_key:
        key = _one_of(key, request.x_goog_api_key)
    if not key:
        raise refusals.unauthenticated("key_missing", "no header carries a key")
    try:
        return hashlib.sha256(key.encode("ascii")).digest(), key
    except UnicodeEncodeError:
        raise refusals.unauthenticated("key_malformed", "the key is not ASCII") from None


def _one_of(first: str, second: str) -> str:
    if first and first != second:
        raise refusals.unauthenticated("key_ambiguous", "two headers carry different keys")
    return second


async def load_identity(identities: Identities, digest: bytes, key: str) -> Identity:
    """The identity of a key that memory does not hold, read from Redis.

    Raises:
        Refusal: key_malformed, without I/O, when prefix, alphabet, length or checksum do not hold; key_unknown.
        Unavailable: Redis did not answer or was emptied; an unknown key is never a 401 then.
    """
    try:
        key_id = key_id_of(key)
    except Malformed as error:
        raise refusals.unauthenticated("key_malformed", str(error)) from None
    try:
        return await identities.load(digest, key_id)
    except Missing as error:
        raise refusals.unauthenticated("key_unknown", str(error)) from None
