"""Rule 17: fixed algorithms; `exp`, `aud`, `iss`, `sub` required, `nbf` honoured; a header can't choose its key source."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from uploadcore.errors import OverloadedError
from uploadcore_http import JwksKeys, JwtAuthenticator, Principal, SharedKey
from uploadcore_http.tokens import MAX_TOKEN_SIZE, REMEMBERED_FOR

SECRET = "a secret of the tests, 32 bytes or more"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, with changes; `None` leaves one out."""
    now = int(time.time())
    good = {"sub": "u_1", "aud": "uploadcore", "iss": "issuer", "exp": now + 600, **changes}
    return {name: value for name, value in good.items() if value is not None}


def signed(
    secret: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any
) -> bytes:
    return jwt.encode(claims(**changes), secret, algorithm, headers=headers).encode()


def by_hand(header: dict[str, Any], body: Any, secret: bytes | None) -> bytes:
    """A token that no library would make."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    message = part(json.dumps(header).encode()) + b"." + part(json.dumps(body).encode())
    return message + b"." + (b"" if secret is None else part(hmac.digest(secret, message, "sha256")))


async def verdict(authenticate: JwtAuthenticator, token: bytes) -> Principal | None:
    return await authenticate({"headers": [(b"host", b"x"), (b"authorization", b"Bearer " + token)]})


@pytest.fixture
def shared() -> JwtAuthenticator:
    return JwtAuthenticator(SharedKey(SECRET), audience="uploadcore", issuer="issuer")


async def test_a_good_token_names_its_owner(shared: JwtAuthenticator) -> None:
    assert await verdict(shared, signed()) == Principal("u_1")
    assert await verdict(shared, signed(aud=["other", "uploadcore"], nbf=int(time.time()) - 1)) == Principal("u_1")


async def test_one_issued_by_a_clock_that_is_ahead_of_ours_is_good(shared: JwtAuthenticator) -> None:
    assert await verdict(shared, signed(iat=int(time.time()) + 14 * 60)) == Principal("u_1")


NOW = int(time.time())
BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "expired": {"exp": NOW - 60},
    "not yet": {"nbf": NOW + 86_400},
    "no exp": {"exp": None},
    "no aud": {"aud": None},
    "no iss": {"iss": None},
    "no sub": {"sub": None},
    "another audience": {"aud": "other"},
    "an audience that has ours in it": {"aud": "uploadcore-admin"},
    "another issuer": {"iss": "other"},
    "an empty sub": {"sub": ""},
    "a sub with a control character": {"sub": "u_1\x00"},
    "a sub of 256 characters": {"sub": "u" * 256},
    "an exp that is no time": {"exp": "tomorrow"},
    "an exp that is not finite": {"exp": float("inf")},
    "an exp that is not a number": {"exp": float("nan")},
    "an exp that is a list": {"exp": [NOW + 600]},
}


@pytest.mark.parametrize("changes", BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_a_token_with_bad_claims_is_nobodys(shared: JwtAuthenticator, changes: dict[str, Any]) -> None:
    body = claims(**changes)
    token = by_hand({"alg": "HS256", "typ": "JWT"}, body, SECRET.encode())

    assert await verdict(shared, token) is None


def public_pem() -> bytes:
    return RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


JWK_OF_ATTACKER = json.loads(jwt.algorithms.HMACAlgorithm.to_jwk(b"the attacker's own key, long enough for HS256"))
CONFUSED: dict[str, bytes] = {
    "alg none": by_hand({"alg": "none"}, claims(), None),
    "alg NONE": by_hand({"alg": "NONE"}, claims(), None),
    "alg none, signed": by_hand({"alg": "none"}, claims(), SECRET.encode()),
    "no alg": by_hand({"typ": "JWT"}, claims(), SECRET.encode()),
    "alg that is no text": by_hand({"alg": 1}, claims(), SECRET.encode()),
    "alg that is a list": by_hand({"alg": ["HS256"]}, claims(), SECRET.encode()),
    "HS512": signed(SECRET * 2, "HS512"),
    "RS256": signed(RSA_KEY, "RS256"),
    "another secret": signed("another secret of 32 bytes or more, yes"),
    "jwk": by_hand(
        {"alg": "HS256", "jwk": JWK_OF_ATTACKER}, claims(), b"the attacker's own key, long enough for HS256"
    ),
    "crit": by_hand({"alg": "HS256", "crit": ["exp"], "exp": 1}, claims(), SECRET.encode()),
    "b64 false": by_hand({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims(), SECRET.encode()),
    "kid that is a number": by_hand({"alg": "HS256", "kid": 1}, claims(), SECRET.encode()),
    "claims that are a list": by_hand({"alg": "HS256"}, [], SECRET.encode()),
    "deep header": base64.urlsafe_b64encode(b"[" * 2_000).rstrip(b"=") + b".e30.AAAA",
    "no signature": signed().rsplit(b".", 1)[0] + b".",
    "a cut signature": signed()[:-4],
    "two dots": b"..",
    "nothing": b"",
    "bytes": bytes(range(33, 256)),
    "too long": b"a" * (MAX_TOKEN_SIZE + 1),
}


@pytest.mark.parametrize("token", CONFUSED.values(), ids=CONFUSED.keys())
async def test_a_token_that_confuses_proves_nothing(shared: JwtAuthenticator, token: bytes) -> None:
    assert await verdict(shared, token) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Basic dTpw")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", signed())],
        [(b"authorization", b"Bearer " + signed()), (b"authorization", b"Bearer " + signed(sub="u_2"))],
        [(b"cookie", b"authorization=Bearer " + signed())],
    ],
)
async def test_only_one_bearer_header_counts(shared: JwtAuthenticator, headers: list[tuple[bytes, bytes]]) -> None:
    assert await shared({"headers": headers}) is None


async def test_a_remembered_token_is_verified_again_once_it_has_expired(
    shared: JwtAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = 0
    decode = jwt.decode

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal verified
        verified += 1
        return decode(*args, **kwargs)

    monkeypatch.setattr("jwt.decode", counting)
    token = signed(
        exp=int(time.time()) - 2
    )  # within the leeway, so that it counts once more and is never remembered as good

    verdicts = [await verdict(shared, token) for _ in range(3)]
    later = [await verdict(shared, signed()) for _ in range(3)]

    assert verdicts == later == [Principal("u_1")] * 3
    assert verified == 3 + 1


async def test_a_verdict_is_not_kept_longer_than_a_withdrawn_key_may_count(shared: JwtAuthenticator) -> None:
    await verdict(shared, signed(exp=NOW + 86_400))

    [(_, until)] = shared._remembered.values()

    assert until <= time.time() + REMEMBERED_FOR


async def test_a_token_that_never_expires_is_not_remembered_for_ever(shared: JwtAuthenticator) -> None:
    assert await verdict(shared, signed(exp=10**400)) == Principal("u_1")

    [(_, until)] = shared._remembered.values()

    assert until <= time.time() + REMEMBERED_FOR


async def test_what_is_remembered_holds_no_token(shared: JwtAuthenticator) -> None:
    token = signed()
    await verdict(shared, token)

    assert token not in b"".join(shared._remembered.keys())
    assert token.decode() not in repr(shared.__dict__)


# --- keys from a JWKS ---------------------------------------------------------------------------------------------


class Issuer:
    """Serves a JWKS; counts how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 200
        self.answers = threading.Event()
        self.answers.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.answers.wait(30)
                body = json.dumps({"keys": issuer.keys}).encode()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"

    def publish(self, *keys: tuple[str, Any], **members: str) -> None:
        """Publish these, with `members` in each."""
        self.keys = []
        for key_id, key in keys:
            algorithm = (
                jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
            )
            self.keys.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig", **members})


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setattr("uploadcore_http.tokens.PATIENCE", 30.0)
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield issuer
    issuer.server.shutdown()
    thread.join()
    issuer.server.server_close()


def with_jwks(issuer: Issuer, algorithms: Sequence[str] = ("RS256", "ES256"), **options: Any) -> JwtAuthenticator:
    keys = JwksKeys(issuer.url, algorithms, timeout=30.0, **options)
    return JwtAuthenticator(keys, audience="uploadcore", issuer="issuer")


async def test_a_token_is_verified_with_the_key_it_names(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY), ("ec", EC_KEY))
    authenticate = with_jwks(issuer)

    assert await verdict(authenticate, signed(RSA_KEY, "RS256", {"kid": "rsa"})) == Principal("u_1")
    assert await verdict(authenticate, signed(EC_KEY, "ES256", {"kid": "ec"})) == Principal("u_1")
    assert issuer.asked == 1


async def test_without_a_key_id_the_only_key_counts_and_no_other(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY))
    assert await verdict(with_jwks(issuer), signed(RSA_KEY, "RS256")) == Principal("u_1")

    issuer.publish(("rsa", RSA_KEY), ("ec", EC_KEY))
    assert await verdict(with_jwks(issuer), signed(RSA_KEY, "RS256")) is None


async def test_a_public_key_is_no_shared_secret(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY))
    authenticate = with_jwks(issuer)

    for secret in (public_pem(), public_pem().rstrip(), json.dumps(issuer.keys[0]).encode()):
        token = by_hand({"alg": "HS256", "kid": "rsa"}, claims(), secret)
        assert await verdict(authenticate, token) is None


async def test_a_key_counts_for_its_own_algorithm_only(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY), ("ec", EC_KEY))
    authenticate = with_jwks(issuer)

    assert await verdict(authenticate, signed(EC_KEY, "ES256", {"kid": "rsa"})) is None
    assert await verdict(authenticate, signed(RSA_KEY, "RS256", {"kid": "ec"})) is None
    assert await verdict(authenticate, signed(RSA_KEY, "PS256", {"kid": "rsa"})) is None


async def test_a_key_that_names_no_algorithm_counts_for_every_allowed_one_of_its_type(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY), ("ec", EC_KEY))
    authenticate = with_jwks(issuer, ["RS256", "RS512", "PS256", "ES256"])

    for algorithm in ("RS256", "RS512", "PS256"):
        assert await verdict(authenticate, signed(RSA_KEY, algorithm, {"kid": "rsa"})) == Principal("u_1"), algorithm
    for algorithm in ("RS384", "PS512"):
        assert await verdict(authenticate, signed(RSA_KEY, algorithm, {"kid": "rsa"})) is None, algorithm
    assert await verdict(authenticate, signed(EC_KEY, "ES256", {"kid": "rsa"})) is None
    assert await verdict(authenticate, signed(RSA_KEY, "RS512", {"kid": "ec"})) is None


async def test_a_key_that_names_its_algorithm_counts_for_no_other(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY), alg="PS256")
    authenticate = with_jwks(issuer, ["RS256", "RS512", "PS256"])

    assert await verdict(authenticate, signed(RSA_KEY, "PS256", {"kid": "rsa"})) == Principal("u_1")
    assert await verdict(authenticate, signed(RSA_KEY, "RS256", {"kid": "rsa"})) is None
    assert await verdict(authenticate, signed(RSA_KEY, "RS512", {"kid": "rsa"})) is None


async def test_a_public_key_is_no_shared_secret_even_where_that_were_allowed(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY))
    authenticate = with_jwks(issuer, ["HS256", "RS256", "PS256"])  # which settings refuse

    for secret in (public_pem(), json.dumps(issuer.keys[0]).encode()):
        assert await verdict(authenticate, by_hand({"alg": "HS256", "kid": "rsa"}, claims(), secret)) is None


async def test_a_curve_counts_for_its_own_algorithm_only(issuer: Issuer) -> None:
    issuer.publish(("ec", EC_KEY))
    authenticate = with_jwks(issuer, ["ES256", "ES512"])
    message, _, _ = by_hand({"alg": "ES512", "kid": "ec"}, claims(), None).rpartition(b".")
    der = EC_KEY.sign(message, ec.ECDSA(hashes.SHA512()))
    raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))
    token = message + b"." + base64.urlsafe_b64encode(raw).rstrip(b"=")
    assert await verdict(authenticate, token) is None


@pytest.mark.parametrize("header", ["jku", "x5u"])
async def test_a_token_can_not_say_where_its_key_is(issuer: Issuer, header: str) -> None:
    attackers = Issuer()
    try:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer.publish(("rsa", RSA_KEY))
        attackers.publish(("theirs", key))
        token = signed(key, "RS256", {"kid": "theirs", header: attackers.url})

        assert await verdict(with_jwks(issuer), token) is None
        assert attackers.asked == 0
    finally:
        attackers.server.server_close()


async def test_a_new_key_is_found(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY))
    authenticate = with_jwks(issuer, cooldown=0.0)
    await verdict(authenticate, signed(RSA_KEY, "RS256", {"kid": "rsa"}))

    issuer.publish(("rsa", RSA_KEY), ("ec", EC_KEY))
    assert await verdict(authenticate, signed(EC_KEY, "ES256", {"kid": "ec"})) == Principal("u_1")


async def test_made_up_key_ids_do_not_make_us_a_nuisance(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("uploadcore_http.tokens.time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    issuer.publish(("rsa", RSA_KEY))
    authenticate = with_jwks(issuer, cooldown=30.0)

    for number in range(20):  # one every two seconds
        assert await verdict(authenticate, signed(RSA_KEY, "RS256", {"kid": f"made-up-{number}"})) is None
        now += 2.0

    assert issuer.asked == 2


async def test_keys_that_can_not_be_fetched_are_an_outage_not_a_verdict(issuer: Issuer) -> None:
    issuer.status = 503

    with pytest.raises(OverloadedError):
        await verdict(with_jwks(issuer), signed(RSA_KEY, "RS256", {"kid": "rsa"}))


async def test_an_issuer_that_hangs_keeps_nobody_waiting_whose_key_is_known(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_http.tokens.PATIENCE", 0.0)
    issuer.publish(("rsa", RSA_KEY))
    keys = JwksKeys(issuer.url, ["RS256"], lifetime=0.0, cooldown=0.0, timeout=30.0)
    while keys._find("rsa") is None:
        with suppress(OverloadedError):
            await keys.key_for("rsa", "RS256")
    issuer.answers.clear()

    try:
        for _ in range(3):
            assert await keys.key_for("rsa", "RS256") is not None
            with pytest.raises(OverloadedError):
                await keys.key_for("made up", "RS256")
        assert issuer.asked <= 3, "one that hangs is asked once at a time"
    finally:
        issuer.answers.set()
        if keys._fetching is not None:
            await keys._fetching


async def test_keys_known_before_outlast_the_issuers_outage(issuer: Issuer) -> None:
    issuer.publish(("rsa", RSA_KEY))
    authenticate = with_jwks(issuer, lifetime=0.0, cooldown=0.0)
    await verdict(authenticate, signed(RSA_KEY, "RS256", {"kid": "rsa"}))

    issuer.status = 500

    assert await verdict(authenticate, signed(RSA_KEY, "RS256", {"kid": "rsa"}, sub="u_2")) == Principal("u_2")
