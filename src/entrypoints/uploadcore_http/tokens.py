"""JSON Web Tokens, verified by the rules of RFC 8725: the algorithms are fixed, and the token has no say in which key verifies it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, Protocol

import jwt
from cachetools import LRUCache

from uploadcore.errors import OverloadedError
from uploadcore_app import Settings
from uploadcore_http.asgi import Scope
from uploadcore_http.auth import Principal, bearer_token

__all__ = ["JwksKeys", "JwtAuthenticator", "SharedKey", "TokenKeys"]

LEEWAY = 5.0
"""Seconds an issuer's clock may differ from ours."""
MAX_TOKEN_SIZE = 8 * 1024
"""Bytes: what common servers take for a header line."""
PATIENCE = 1.0
"""Seconds a request waits for the issuer's keys."""
REMEMBERED = 10_000
"""Tokens whose verdict is kept: about 3 MiB."""
REMEMBERED_FOR = 300.0
"""Seconds a verdict is kept at most, so that a key that is withdrawn stops counting although tokens it signed live on."""
_OWNER = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")
"""No control characters, and no halves of surrogate pairs, which JSON can hold (RFC 8259, section 8.2) and no database can."""

log = logging.getLogger("uploadcore.http")


class TokenKeys(Protocol):
    """Where the verifying key comes from: configuration, never the token."""

    algorithms: Sequence[str]

    async def key_for(self, key_id: str | None, algorithm: str) -> Any | None:
        """The key known under this id, for this one of `algorithms`; `None` if none is."""


class SharedKey:
    """One secret, HS256. Whatever key id a token names, it is this one or the token is no good."""

    algorithms: Sequence[str] = ("HS256",)

    def __init__(self, secret: str) -> None:
        """Verify with this secret."""
        self._secret = secret.encode()

    async def key_for(self, key_id: str | None, algorithm: str) -> bytes:
        """The secret."""
        del key_id, algorithm
        return self._secret


class JwksKeys:
    """The issuer's public keys, fetched from one configured URL. Never from a URL a token names.

    Args:
        url: The JWKS.
        algorithms: What the keys may be used with; asymmetric ones only.
        lifetime: Seconds after which the set is fetched again.
        cooldown: Seconds between fetches because of an unknown key id: made-up ids must not make us a nuisance.
        timeout: Seconds a fetch may take.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        *,
        lifetime: float = 300.0,
        cooldown: float = 30.0,
        timeout: float = 5.0,
    ) -> None:
        self.algorithms: Sequence[str] = tuple(algorithms)
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=timeout)
        self._lifetime = lifetime
        self._cooldown = cooldown
        self._keys: list[jwt.PyJWK] = []
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def key_for(self, key_id: str | None, algorithm: str) -> Any | None:
        """The key with this id; without an id, the only key there is.

        It comes bound to one algorithm: what it is published for; or this one, where it is published for none in particular and this is one
        of its type.

        Raises:
            OverloadedError: The set could not be fetched yet, and without it nobody can tell.
        """
        found = self._find(key_id)
        now = time.monotonic()
        is_old = now - self._fetched_at > self._lifetime
        if found is None or is_old:
            # An issuer that is slow or away is asked again and again, but keeps those waiting only who come when it is: for the others the keys
            # there are have to do.
            if self._fetching is None and now - self._tried_at > (
                min(1.0, self._cooldown) if is_old else self._cooldown
            ):
                self._tried_at = now
                self._fetching = asyncio.create_task(self._fetch())
            if self._fetching is not None:
                await asyncio.wait({self._fetching}, timeout=self._tried_at + PATIENCE - now)
                found = self._find(key_id)
        if not self._keys or (found is None and self._fetching is not None):
            raise OverloadedError("the issuer's keys can't be fetched just now", retry_after=2)
        return None if found is None else _bound(found, algorithm)

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        usable = [key for key in self._keys if key_id is None or key.key_id == key_id]
        return usable[0] if len(usable) == 1 else None

    async def _fetch(self) -> None:
        """Fetch the set. What can't be fetched leaves the keys there are."""
        try:
            self._keys = await asyncio.to_thread(self._client.get_signing_keys)
            self._fetched_at = self._tried_at
        except (jwt.PyJWTError, OSError, ValueError, HTTPException) as exc:
            reason = type(exc).__name__
            log.warning("the issuer's keys were not fetched: %s", reason, extra={"reason": reason})
        finally:
            self._fetching = None


def _bound(key: jwt.PyJWK, algorithm: str) -> jwt.PyJWK:
    """The key for this algorithm, if it may be used with it; otherwise as it is, so that PyJWT refuses the token.

    An RSA key fits several, and need not say which (`alg` is optional: RFC 7517, section 4.4): PyJWT then takes RS256. Of every other kind of key
    its type and curve leave one.
    """
    is_open = key.key_type == "RSA" and not key._jwk_data.get("alg")
    return jwt.PyJWK(key._jwk_data, algorithm) if is_open and algorithm.startswith(("RS", "PS")) else key


class JwtAuthenticator:
    """Takes `Authorization: Bearer <JWT>`; the owner is the token's `sub`.

    `exp`, `aud`, `iss` and `sub` must be there; `nbf` counts if it is. A token that was verified is remembered by its SHA-256 until it
    expires, and for five minutes at most.

    Args:
        keys: Where the verifying key comes from.
        audience: What `aud` must name.
        issuer: What `iss` must be.

    Example:
        >>> import asyncio, time, jwt
        >>> key = "a secret of 32 bytes or more, please"
        >>> authenticate = JwtAuthenticator(SharedKey(key), audience="uploadcore", issuer="me")
        >>> claims = {"sub": "u_1", "aud": "uploadcore", "iss": "me", "exp": time.time() + 60}
        >>> token = jwt.encode(claims, key, "HS256").encode()
        >>> asyncio.run(authenticate({"headers": [(b"authorization", b"Bearer " + token)]}))
        Principal(owner='u_1')
    """

    def __init__(self, keys: TokenKeys, *, audience: str, issuer: str) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._remembered: LRUCache[bytes, tuple[Principal, float]] = LRUCache(REMEMBERED)

    @classmethod
    def from_settings(cls, settings: Settings) -> JwtAuthenticator:
        """The authenticator that is configured.

        Raises:
            ValueError: None is.
        """
        keys: TokenKeys
        if settings.auth_jwks_url is not None:
            keys = JwksKeys(settings.auth_jwks_url, settings.auth_jwt_algorithms)
        elif settings.auth_jwt_key is not None:
            keys = SharedKey(settings.auth_jwt_key.get_secret_value())
        else:
            raise ValueError("no authentication is configured")
        return cls(keys, audience=settings.auth_jwt_audience, issuer=settings.auth_jwt_issuer)

    async def __call__(self, scope: Scope) -> Principal | None:
        """Who the token says it is; `None` for no token, or one that proves nothing."""
        token = bearer_token(scope["headers"])
        if token is None or len(token) > MAX_TOKEN_SIZE:
            return None
        digest = hashlib.sha256(token).digest()
        remembered = self._remembered.get(digest)
        if remembered is not None:
            principal, until = remembered
            if time.time() < until:
                return principal
            del self._remembered[digest]
        return await self._verify(token, digest)

    async def _verify(self, token: bytes, digest: bytes) -> Principal | None:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg", "")
            if algorithm not in self._keys.algorithms:
                return None
            key = await self._keys.key_for(header.get("kid"), algorithm)
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=list(self._keys.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                # When it was issued decides nothing (RFC 7519, section 4.1.6), and a clock of ours that is behind must not refuse it.
                options={"require": ["exp", "aud", "iss", "sub"], "verify_iat": False},
            )
            expires = int(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            # PyJWT lets a few errors of its parsers through for headers and claims of unexpected types.
            return None
        owner = claims["sub"]
        if not isinstance(owner, str) or _OWNER.fullmatch(owner) is None:
            return None
        principal = Principal(owner)
        self._remembered[digest] = (principal, min(expires, time.time() + REMEMBERED_FOR))
        return principal
