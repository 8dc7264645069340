"""A bucket's CORS and lifecycle rules: read, judged, and added to. What else stands there stays."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from uploadcore.errors import StoreUnavailableError
from uploadcore_s3.probe import Reply, SignedHttp
from uploadcore_s3.xml import NotXmlError, children, local_name, parse_xml

__all__ = ["LifecycleRule", "RulesUnsupportedError", "add_cors_rule", "add_lifecycle_rule", "lifecycle_rules"]

RULE_ID = "uploadcore-abandoned-multipart-uploads"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_NONE_YET = frozenset({"NoSuchCORSConfiguration", "NoSuchLifecycleConfiguration"})
_EXPOSED = ("ETag", "x-amz-checksum-crc64nvme", "x-amz-checksum-crc32c", "x-amz-checksum-sha256")
_MAX_AGE = 3_600
"""Seconds a browser may remember a preflight."""


class RulesUnsupportedError(Exception):
    """The store has no such rules, or does not let this identity see them. The message is its word for it."""


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """An enabled rule, as far as it matters here. Days, or `None` where it does not say."""

    name: str
    prefix: str
    abandoned_after: int | None
    expires_after: int | None

    def covers(self, prefix: str) -> bool:
        """Whether every key that begins with `prefix` falls under it."""
        return prefix.startswith(self.prefix)


def lifecycle_rules(http: SignedHttp) -> list[LifecycleRule]:
    """The enabled rules that ask for nothing but a prefix.

    Raises:
        RulesUnsupportedError: There are no such things as rules here.
        StoreUnavailableError: No answer.
    """
    return [_lifecycle_rule(rule) for rule in _read(http, "lifecycle", "LifecycleConfiguration") if _counts(rule)]


def add_lifecycle_rule(http: SignedHttp, *, prefix: str, days: int) -> None:
    """Add the rule that drops multipart uploads left behind `days` after their beginning, or put it in its own place.

    Raises:
        RulesUnsupportedError: The store does not take it.
        StoreUnavailableError: No answer.
    """
    rule = _element("Rule")
    rule.append(_element("ID", RULE_ID))
    chosen = _element("Filter")
    chosen.append(_element("Prefix", prefix))
    rule.append(chosen)
    rule.append(_element("Status", "Enabled"))
    abort = _element("AbortIncompleteMultipartUpload")
    abort.append(_element("DaysAfterInitiation", str(days)))
    rule.append(abort)
    others = [one for one in _read(http, "lifecycle", "LifecycleConfiguration") if children(one).get("ID") != RULE_ID]
    _write(http, "lifecycle", "LifecycleConfiguration", [*others, rule])


def add_cors_rule(http: SignedHttp, *, origins: Iterable[str]) -> None:
    """Add a rule that lets these origins PUT and GET, and see an ETag.

    Raises:
        RulesUnsupportedError: The store does not take it.
        StoreUnavailableError: No answer.
    """
    rule = _element("CORSRule")
    for name, values in (
        ("AllowedOrigin", origins),
        ("AllowedMethod", ("PUT", "GET", "HEAD")),
        ("AllowedHeader", ("*",)),
        ("ExposeHeader", _EXPOSED),
        ("MaxAgeSeconds", (str(_MAX_AGE),)),
    ):
        rule.extend(_element(name, value) for value in values)
    _write(http, "cors", "CORSConfiguration", [*_read(http, "cors", "CORSConfiguration"), rule])


def _read(http: SignedHttp, what: str, root: str) -> list[ET.Element]:
    reply = http.request("GET", query={what: ""})
    if reply.code in _NONE_YET:
        return []
    _check(reply)
    try:
        document = parse_xml(reply.body)
    except NotXmlError as exc:
        raise RulesUnsupportedError("its answer is no XML") from exc
    if local_name(document) != root:  # the store does not know the parameter, and has listed the bucket
        raise RulesUnsupportedError(f"it answers with {local_name(document)}")
    for element in document.iter():  # some stores send no namespace; what is written back has one
        element.tag = f"{{{_NAMESPACE}}}{local_name(element)}"
    return list(document)


def _write(http: SignedHttp, what: str, root: str, rules: Sequence[ET.Element]) -> None:
    document = _element(root)
    document.extend(rules)
    body: bytes = ET.tostring(document, encoding="utf-8", xml_declaration=True, default_namespace=_NAMESPACE)
    # S3 wants a digest of this one body, for its integrity (S3 API, PutBucketLifecycleConfiguration, PutBucketCors).
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    _check(http.request("PUT", query={what: ""}, headers={"content-md5": digest}, body=body))


def _check(reply: Reply) -> None:
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
        prefix=parts.get("Filter", {}).get("Prefix") or said.get("Prefix", ""),
        abandoned_after=_days(abort.get("DaysAfterInitiation")),
        expires_after=_days(expiration.get("Days")),
    )


def _days(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
