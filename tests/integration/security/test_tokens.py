"""Tokens with a good signature and claims of the wrong kind, and tokens spelled otherwise. What else confuses is in `tests/unit/test_http_tokens.py`."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import pytest

from tests.integration.http.service import KEY, Service
from uploadcore_http import JwtAuthenticator, SharedKey

NOW, DAY = int(time.time()), 86_400  # tests run some time after they were collected
GOOD: dict[str, Any] = {"sub": "owner", "aud": "uploadcore", "iss": "uploadcore", "exp": NOW + DAY}


def base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def signed(claims: bytes, header: bytes = b'{"alg":"HS256"}', key: str = KEY) -> str:
    """A token of exactly these bytes, signed with HS256 whatever the header says."""
    message = base64url(header) + b"." + base64url(claims)
    return (message + b"." + base64url(hmac.digest(key.encode(), message, "sha256"))).decode()


def of(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


NO_AUDIENCES: list[Any] = [1, None, [], {"uploadcore": 1}, [["uploadcore"]], [1]]
NO_ISSUERS: list[Any] = [1, None, ["uploadcore"], {"uploadcore": 1}]
NO_BEGINNINGS: list[Any] = ["tomorrow", [], {}, NOW + DAY, 10**400]
NO_ENDS: list[Any] = [None, False, -1, 0, "", {}, -(10**400), "1e400"]
NO_SUBJECTS: list[Any] = [1, True, None, ["owner"], {"owner": 1}, 1.5]

WRONG_CLAIMS: dict[str, bytes] = {
    **{f"a sub that is {value!r}": of(sub=value) for value in NO_SUBJECTS},
    "a sub of half a character": of(sub="\ud800"),
    "a sub with a C1 control": of(sub="a\x9b2Jb"),
    "a sub with a line end": of(sub="owner\n"),
    **{f"an aud that is {value!r}": of(aud=value) for value in NO_AUDIENCES},
    "an aud in other letters": of(aud="UploadCore"),
    "an aud with a U+0000": of(aud="uploadcore\x00"),
    **{f"an iss that is {value!r}": of(iss=value) for value in NO_ISSUERS},
    "an iss with a slash": of(iss="uploadcore/"),
    **{f"an exp that is {value!r}": of(exp=value) for value in NO_ENDS},
    **{f"an nbf that is {value!r}": of(nbf=value) for value in NO_BEGINNINGS},
    "an exp of 5,000 digits": json.dumps({**GOOD, "exp": "E"}).replace('"E"', "9" * 5_000).encode(),
    "exp twice, the last gone by": b'{"exp":%d,' % (NOW + DAY) + json.dumps({**GOOD, "exp": 1}).encode()[1:],
    "nested arrays": b'{"a":' + b"[" * 1_500 + b"]" * 1_500 + b"," + of()[1:],
    "nested arrays without end": b"[" * 4_000,
    "text": b'"owner"',
    "null": b"null",
    "nothing": b"",
    "invalid UTF-8": of(sub="?").replace(b"?", b"\xff"),
    "no JSON": b"{'sub': 'owner'}",
}
HEADERS: dict[str, bytes] = {
    "hs256": b'{"alg":"hs256"}',
    "HS256 with a blank": b'{"alg":"HS256 "}',
    "HS256 in letters that look alike": '{"alg":"\u041dS256"}'.encode(),
    "none last": b'{"alg":"HS256","alg":"none"}',
    "none with a blank": b'{"alg":" none"}',
    "null": b'{"alg":null}',
    "an object": b'{"alg":{"HS256":1}}',
    "RS256": b'{"alg":"RS256"}',
    "EdDSA": b'{"alg":"EdDSA"}',
    "dir, as in encryption": b'{"alg":"dir","enc":"A256GCM"}',
    "an unknown critical member": b'{"alg":"HS256","crit":["x"],"x":1}',
    "critical members that are none": b'{"alg":"HS256","crit":[]}',
    "a kid that is a list": b'{"alg":"HS256","kid":["a"]}',
    "a list": b"[]",
    "text": b'"HS256"',
    "nested arrays": b'{"alg":"HS256","x":' + b"[" * 1_500 + b"]" * 1_500 + b"," + b'"y":1',
}
TOKEN = signed(of())
HEAD, CLAIMS, SIGNATURE = TOKEN.split(".")
SPELLED: dict[str, str] = {
    "five parts, as encrypted ones have": f"{TOKEN}.a.b",
    "four parts": f"{TOKEN}.",
    "two parts": f"{HEAD}.{CLAIMS}",
    "the parts turned around": f"{CLAIMS}.{HEAD}.{SIGNATURE}",
    "an empty head": f".{CLAIMS}.{SIGNATURE}",
    "another bit in the signature": f"{HEAD}.{CLAIMS}.{'A' if SIGNATURE[0] != 'A' else 'B'}{SIGNATURE[1:]}",
    "a signature of nothing": f"{HEAD}.{CLAIMS}.{base64url(b'').decode()}",
    "a signature cut short": f"{HEAD}.{CLAIMS}.{SIGNATURE[:-8]}",
    "the signature of another message": f"{HEAD}.{base64url(of(sub='other')).decode()}.{SIGNATURE}",
    "JSON instead": json.dumps({"payload": CLAIMS, "signatures": [{"protected": HEAD, "signature": SIGNATURE}]}),
    "a blank within": f"{HEAD}. {CLAIMS}.{SIGNATURE}",
    "another token behind": f"{TOKEN},{TOKEN}",
}
PROVE_NOTHING = {
    **{f"claims: {kind}": signed(claims) for kind, claims in WRONG_CLAIMS.items()},
    **{f"header: {kind}": signed(of(), header) for kind, header in HEADERS.items()},
    **{f"spelled: {kind}": token for kind, token in SPELLED.items()},
    "another key": signed(of(), key=KEY[:-1]),
    "the empty key": signed(of(), key=""),
}


@pytest.mark.parametrize("token", PROVE_NOTHING.values(), ids=PROVE_NOTHING.keys())
async def test_a_token_that_proves_nothing_is_401_and_nothing_is_logged_of_it(
    service: Service, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Straight to the authenticator, which takes longer tokens than a header has room for, then over the service.
    authenticate = JwtAuthenticator(SharedKey(KEY), audience="uploadcore", issuer="uploadcore")

    assert await authenticate({"headers": [(b"authorization", b"Bearer " + token.encode())]}) is None
    answer = await service.client(None, headers={"authorization": f"Bearer {token}"}).get("/v1/uploads")

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert token[:40] not in answer.text + caplog.text
    assert service.store.calls == []


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"HS256","jku":"https://evil.example/jwks","x5u":"https://evil.example/x","x5c":["MIIB"]}',
        b'{"alg":"HS256","kid":"../../../dev/null"}',
        b'{"alg":"HS256","kid":"\' union select \'key"}',
        b'{"alg":"HS256","zip":"DEF","cty":"JWT","typ":"x"}',
    ],
)
async def test_what_a_header_says_of_keys_is_not_listened_to(service: Service, header: bytes) -> None:
    for key, status in ((KEY, 200), ("", 401), ("MIIB", 401), ("\x00", 401)):
        token = signed(of(), header, key)
        answer = await service.client(None, headers={"authorization": f"Bearer {token}"}).get("/v1/uploads")

        assert answer.status_code == status


@pytest.mark.parametrize(
    "owner", ["u_1", "a" * 255, "\U0001f3ac" * 255, "../../etc", "' or 1=1 --", "a/b?c#d", "\u202eabc"]
)
async def test_any_name_of_an_owner_is_theirs_alone(service: Service, owner: str) -> None:
    own = {"authorization": f"Bearer {signed(of(sub=owner))}"}
    api = service.client(None, headers=own)
    created = await api.post("/v1/uploads", json={"filename": "a", "size": 1})

    listed = (await api.get("/v1/uploads")).json()["uploads"]

    assert created.status_code == 201
    assert [upload["id"] for upload in listed] == [created.json()["id"]]
    assert (await service.client("owner").get("/v1/uploads")).json()["uploads"] == []
    assert owner not in created.text
