"""A bucket's CORS and lifecycle rules: read, judged, and added to. What else stands there stays."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from xml.etree import ElementTree as ET

from uploadcore.errors import StoreUnavailableError
from uploadcore_s3.probe import Reply, SignedHttp
from uploadcore_s3.xml import NotXmlError, children, local_name, parse_xml

__all__ = [
    "LifecycleRule",
    "RulesDeniedError",
    "RulesUnsupportedError",
    "add_cors_rule",
    "add_lifecycle_rule",
    "lifecycle_rules",
    "rule_id",
]

CORS_ID = "uploadcore"
_RULE_ID = "uploadcore-abandoned-multipart-uploads"
_MAX_ID = 255
"""Characters. Source: S3 API, LifecycleRule, "ID"."""
_ACTIONS = {
    ("GET", "cors"): "s3:GetBucketCORS",
    ("PUT", "cors"): "s3:PutBucketCORS",
    ("GET", "lifecycle"): "s3:GetLifecycleConfiguration",
    ("PUT", "lifecycle"): "s3:PutLifecycleConfiguration",
}
"""Source: S3 User Guide, "Required permissions for Amazon S3 API operations"."""
_ECHOED = "x-amz-transition-default-minimum-object-size"
"""Where a PUT leaves it out, S3 sets it back to its default (S3 API, PutBucketLifecycleConfiguration)."""
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_NONE_YET = frozenset({"NoSuchCORSConfiguration", "NoSuchLifecycleConfiguration"})
_EXPOSED = ("ETag", "x-amz-checksum-crc64nvme", "x-amz-checksum-crc32c", "x-amz-checksum-sha256")
_NONE: Mapping[str, str] = MappingProxyType({})
_MAX_AGE = 3_600
"""Seconds a browser may remember a preflight."""


class RulesUnsupportedError(Exception):
    """The store has no such rules. The message is its word for it."""


class RulesDeniedError(RulesUnsupportedError):
    """The store does not let this identity see or set them.

    Attributes:
        action: What would have to be allowed.
    """

    def __init__(self, message: str, action: str) -> None:
        super().__init__(message)
        self.action = action


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """An enabled rule, as far as it matters here. Days, or `None` where it does not say."""

    name: str
    prefix: str
    abandoned_after: int | None
    expires_after: int | None
    expires_on: str = ""

    @property
    def expiration(self) -> str:
        """When it deletes objects, in words; empty if it does not."""
        return f"after {self.expires_after} days" if self.expires_after is not None else self.expires_on

    def overlaps(self, prefix: str) -> bool:
        """Whether any key that begins with `prefix` falls under it."""
        return self.covers(prefix) or self.prefix.startswith(prefix)

    def covers(self, prefix: str) -> bool:
        """Whether every key that begins with `prefix` falls under it."""
        return prefix.startswith(self.prefix)


def lifecycle_rules(http: SignedHttp) -> list[LifecycleRule]:
    """The enabled rules that ask for nothing but a prefix.

    Raises:
        RulesUnsupportedError: There are no such things as rules here.
        StoreUnavailableError: No answer.
    """
    rules, _ = _read(http, "lifecycle", "LifecycleConfiguration")
    return [_lifecycle_rule(rule) for rule in rules if _counts(rule)]


def rule_id(prefix: str) -> str:
    """The name of our rule for a prefix: services that share a bucket have one each."""
    return f"{_RULE_ID}:{prefix}"[:_MAX_ID]


def add_lifecycle_rule(http: SignedHttp, *, prefix: str, days: int) -> None:
    """Add the rule that drops multipart uploads left behind `days` after their beginning, or put it in its own place.

    Raises:
        RulesUnsupportedError: The store does not take it.
        StoreUnavailableError: No answer.
    """
    rule = _element("Rule")
    rule.append(_element("ID", rule_id(prefix)))
    chosen = _element("Filter")
    chosen.append(_element("Prefix", prefix))
    rule.append(chosen)
    rule.append(_element("Status", "Enabled"))
    abort = _element("AbortIncompleteMultipartUpload")
    abort.append(_element("DaysAfterInitiation", str(days)))
    rule.append(abort)
    rules, told = _read(http, "lifecycle", "LifecycleConfiguration")
    others = [one for one in rules if (children(one).get("ID"), _prefix(one)) != (rule_id(prefix), prefix)]
    echoed = {_ECHOED: told[_ECHOED]} if _ECHOED in told else {}
    _write(http, "lifecycle", "LifecycleConfiguration", [*others, rule], echoed)


def add_cors_rule(http: SignedHttp, *, origins: Iterable[str]) -> None:
    """Let these origins PUT and GET, and see an ETag, by one rule of ours: those it let in before stay in.

    It comes first, for S3 goes by the first rule that matches (S3 User Guide, "Elements of a CORS configuration").

    Raises:
        RulesUnsupportedError: The store does not take it.
        StoreUnavailableError: No answer.
    """
    rules, _ = _read(http, "cors", "CORSConfiguration")
    ours = [one for one in rules if children(one).get("ID") == CORS_ID]
    before = [child.text or "" for one in ours for child in one if local_name(child) == "AllowedOrigin"]
    rule = _element("CORSRule")
    for name, values in (
        ("ID", (CORS_ID,)),
        ("AllowedOrigin", dict.fromkeys([*before, *origins])),
        ("AllowedMethod", ("PUT", "GET", "HEAD")),
        ("AllowedHeader", ("*",)),
        ("ExposeHeader", _EXPOSED),
        ("MaxAgeSeconds", (str(_MAX_AGE),)),
    ):
        rule.extend(_element(name, value) for value in values)
    _write(http, "cors", "CORSConfiguration", [rule, *(one for one in rules if one not in ours)])


def _read(http: SignedHttp, what: str, root: str) -> tuple[list[ET.Element], Mapping[str, str]]:
    """The rules, and the headers they came with."""
    reply = http.request("GET", query={what: ""})
    if reply.code in _NONE_YET:
        return [], {}
    _check(reply, _ACTIONS["GET", what])
    try:
        document = parse_xml(reply.body)
    except NotXmlError as exc:
        raise RulesUnsupportedError("its answer is no XML") from exc
    if local_name(document) != root:  # the store does not know the parameter, and has listed the bucket
        raise RulesUnsupportedError(f"it answers with {local_name(document)}")
    for element in document.iter():  # some stores send no namespace; what is written back has one
        element.tag = f"{{{_NAMESPACE}}}{local_name(element)}"
    return list(document), reply.headers


def _write(
    http: SignedHttp, what: str, root: str, rules: Sequence[ET.Element], headers: Mapping[str, str] = _NONE
) -> None:
    document = _element(root)
    document.extend(rules)
    body: bytes = ET.tostring(document, encoding="utf-8", xml_declaration=True, default_namespace=_NAMESPACE)
    # S3 wants a digest of this one body, for its integrity (S3 API, PutBucketLifecycleConfiguration, PutBucketCors).
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    reply = http.request("PUT", query={what: ""}, headers={"content-md5": digest, **headers}, body=body)
    _check(reply, _ACTIONS["PUT", what])


def _check(reply: Reply, action: str) -> None:
    if reply.status in {401, 403}:
        raise RulesDeniedError(str(reply), action)
    if reply.is_refusal or reply.status == 501:
        raise RulesUnsupportedError(str(reply))
    if reply.code:
        raise StoreUnavailableError(f"the store says {reply}")


def _element(name: str, text: str | None = None) -> ET.Element:
    element = ET.Element(f"{{{_NAMESPACE}}}{name}")
    element.text = text
    return element


def _counts(rule: ET.Element) -> bool:
    chosen = next((child for child in rule if local_name(child) == "Filter"), None)
    only_prefix = chosen is None or all(local_name(child) == "Prefix" for child in chosen)
    return children(rule).get("Status") == "Enabled" and only_prefix


def _lifecycle_rule(rule: ET.Element) -> LifecycleRule:
    said = children(rule)
    parts = {local_name(child): children(child) for child in rule}
    abort, expiration = parts.get("AbortIncompleteMultipartUpload", {}), parts.get("Expiration", {})
    return LifecycleRule(
        name=said.get("ID", ""),
        prefix=_prefix(rule),
        abandoned_after=_days(abort.get("DaysAfterInitiation")),
        expires_after=_days(expiration.get("Days")),
        expires_on=f"on {expiration['Date']}" if expiration.get("Date") else "",
    )


def _prefix(rule: ET.Element) -> str:
    """Of a rule, wherever it says it: in its filter, or as rules did before there were filters."""
    parts = {local_name(child): children(child) for child in rule}
    return parts.get("Filter", {}).get("Prefix") or children(rule).get("Prefix", "")


def _days(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
