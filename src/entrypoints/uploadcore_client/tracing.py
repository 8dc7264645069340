"""Spans of what the client does, where the program that uses it makes traces: `opentelemetry-api` is installed, and a provider is set.

Otherwise nothing. No span has a URL, a token, a path or the message of an error in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import ParamSpec

from uploadcore.errors import UploadCoreError
from uploadcore_client.retry import TransientError

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError:  # an extra of the program's, not of ours
    HAS_API = False
else:
    HAS_API = True

__all__ = ["call_name", "carried", "span", "tell_status", "trace_headers"]

P = ParamSpec("P")

_ID = re.compile(r"^/v1/(uploads|files)/[^/?]+")
_TEMPLATE = r"/v1/\1/{id}"
_SCOPE = "uploadcore.client"


@contextmanager
def span(name: str, attributes: dict[str, str | int] | None = None, *, is_call: bool = False) -> Iterator[None]:
    """Around something done, a span that is current meanwhile.

    Args:
        name: Of the span. One of a bounded number.
        attributes: What it tells.
        is_call: Whether somebody else does it for us.
    """
    if not HAS_API:
        yield
        return
    kind = trace.SpanKind.CLIENT if is_call else trace.SpanKind.INTERNAL
    with trace.get_tracer(_SCOPE).start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        outcome = "unexpected"
        try:
            yield
            outcome = "ok"
        except TransientError as exc:
            outcome = exc.error.code
            raise
        except UploadCoreError as exc:
            outcome = exc.code
            raise
        finally:
            current.set_attribute("uploadcore.outcome", outcome)
            if outcome != "ok":
                current.set_status(trace.StatusCode.ERROR, outcome)


def tell_status(status: int) -> None:
    """Add the status of an answer to the current span."""
    if HAS_API:
        trace.get_current_span().set_attribute("http.response.status_code", status)


def trace_headers() -> dict[str, str]:
    """`traceparent` of the current span, for the service. Not for signed URLs: a header that was not signed may be refused."""
    headers: dict[str, str] = {}
    if HAS_API:
        TraceContextTextMapPropagator().inject(headers)
    return headers


def carried(function: Callable[P, None]) -> Callable[P, None]:
    """The function, to be run in another thread as what is going on here."""
    context = copy_context()

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        context.run(function, *args, **kwargs)

    return run


def call_name(method: str, path: str) -> str:
    """What a call is called: its method and route, without ids and query.

    >>> call_name("GET", "/v1/uploads/0b5c/parts?after=0")
    'GET /v1/uploads/{id}/parts'
    """
    return f"{method} {_ID.sub(_TEMPLATE, path.partition('?')[0])}"
