"""The bucket's own rules, for `uploadcore doctor`: looked at, and with `--apply` set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta

from uploadcore.diagnosis import Finding, Needs, Verdict
from uploadcore_s3.bucket_rules import (
    LifecycleRule,
    RulesDeniedError,
    RulesUnsupportedError,
    add_cors_rule,
    add_lifecycle_rule,
    lifecycle_rules,
)
from uploadcore_s3.examined import Examined

__all__ = ["lifecycle", "origins"]

_DAY = timedelta(days=1)


# --- browsers -----------------------------------------------------------------------------------------------------


def origins(examined: Examined, needs: Needs, apply: bool) -> Iterator[Finding]:
    """Whether a browser may PUT a part and see its ETag, from every origin configured."""
    check = "store.cors"
    if not needs.origins:
        yield Finding(check, Verdict.NOTE, "no browser uploads: UPLOADCORE_CORS_ORIGINS names no origin")
        return
    barred = [origin for origin in needs.origins if not _lets_in(examined, needs, origin)]
    if not barred:
        yield Finding(check, Verdict.OK, f"pages of {', '.join(needs.origins)} may PUT, and see ETag")
    elif not apply:
        message = f"pages of {', '.join(barred)} can't PUT, or don't see ETag"
        yield Finding(
            check, Verdict.FAILED, message, "uploadcore doctor --apply, or the bucket's CORS rules: see docs/s3.md"
        )
    else:
        try:
            add_cors_rule(examined.control, origins=barred)
        except RulesDeniedError as exc:
            yield Finding(check, Verdict.FAILED, f"the store does not let control set CORS rules: {exc}", _allow(exc))
        except RulesUnsupportedError as exc:
            fix = "set them where the store has them: in its own configuration, or at a proxy in front"
            yield Finding(check, Verdict.FAILED, f"the store does not take CORS rules: {exc}", fix)
        else:
            yield _after(check, [origin for origin in barred if not _lets_in(examined, needs, origin)], barred)


def _after(check: str, still_barred: list[str], barred: list[str]) -> Finding:
    """What the rule that was set has come to."""
    if not still_barred:
        return Finding(check, Verdict.OK, f"pages of {', '.join(barred)} may PUT now: a CORS rule was added")
    message = f"a CORS rule was added, and pages of {', '.join(still_barred)} can't PUT yet, or don't see ETag"
    return Finding(check, Verdict.WARNING, message, "run the doctor again in a minute: rules may take effect late")


def _allow(error: RulesDeniedError) -> str:
    return (
        f"allow {error.action} on the bucket, for as long as the doctor runs: see docs/policies/uploadcore-doctor.json"
    )


def _lets_in(examined: Examined, needs: Needs, origin: str) -> bool:
    """Whether a preflight is granted, and the answer to a PUT shows its ETag. The PUT is of no upload, and refused."""
    http = examined.write
    url = http.sign("PUT", f"{needs.key_prefix}/doctor/cors", {"partNumber": "1", "uploadId": "none"})
    asked = {
        "origin": origin,
        "access-control-request-method": "PUT",
        "access-control-request-headers": ",".join(sorted(examined.sent_headers)),
    }
    preflight = http.send("OPTIONS", url, asked)
    if preflight.code or preflight.headers.get("access-control-allow-origin") not in {origin, "*"}:
        return False
    exposed = http.send("PUT", url, {"origin": origin}).headers
    names = {name.strip().lower() for name in exposed.get("access-control-expose-headers", "").split(",")}
    return bool(names & {"etag", "*"})


# --- lifecycle ----------------------------------------------------------------------------------------------------


def lifecycle(examined: Examined, needs: Needs, apply: bool) -> Iterator[Finding]:
    """Whether the store drops what is left behind, and not before our own deadline."""
    check, prefix = "store.lifecycle", f"{needs.key_prefix}/"
    # A day more: rules run once a day, and the deadline is followed by the sweeper's own work.
    days = math.ceil(needs.upload_lifetime / _DAY) + 1
    try:
        rules = [rule for rule in lifecycle_rules(examined.control) if rule.overlaps(prefix)]
    except RulesDeniedError as exc:
        message = f"the store does not show control its lifecycle rules: {exc}"
        yield Finding(check, Verdict.NOTE, message, _allow(exc))
        return
    except RulesUnsupportedError as exc:
        yield Finding(check, Verdict.NOTE, f"the store shows no lifecycle rules ({exc}): only the sweeper cleans up")
        return
    yield from _expiring(rules, prefix)
    reaping = [rule for rule in rules if rule.abandoned_after is not None]
    hasty = [rule for rule in reaping if (rule.abandoned_after or 0) < days]
    if hasty:
        message = f"rule {hasty[0].name!r} drops multipart uploads after {hasty[0].abandoned_after} days, before their deadline"
        yield Finding(check, Verdict.FAILED, message, f"{days} days or more, or a shorter UPLOADCORE_UPLOAD_LIFETIME")
    elif reaping := [rule for rule in reaping if rule.covers(prefix)]:
        yield Finding(
            check, Verdict.OK, f"multipart uploads left behind are dropped after {reaping[0].abandoned_after} days"
        )
    elif not apply:
        message = "no rule drops multipart uploads left behind: should the database be lost, they are stored and paid for ever"
        yield Finding(check, Verdict.WARNING, message, f"uploadcore doctor --apply adds one of {days} days")
    else:
        yield _with_rule(examined, check, prefix, days)


def _expiring(rules: list[LifecycleRule], prefix: str) -> Iterator[Finding]:
    for rule in rules:
        if rule.expiration:
            message = f"rule {rule.name!r} deletes objects {rule.expiration}: files will vanish behind our back"
            yield Finding("store.expiration", Verdict.WARNING, message, f"exclude {prefix} from it")


def _with_rule(examined: Examined, check: str, prefix: str, days: int) -> Finding:
    try:
        add_lifecycle_rule(examined.control, prefix=prefix, days=days)
    except RulesDeniedError as exc:
        message = f"the store does not let control set a lifecycle rule: {exc}"
        return Finding(check, Verdict.WARNING, message, _allow(exc))
    except RulesUnsupportedError as exc:
        message = f"the store does not take a lifecycle rule: {exc}"
        return Finding(check, Verdict.WARNING, message, "set one by its own means")
    return Finding(check, Verdict.OK, f"a rule was added: multipart uploads left behind are dropped after {days} days")
