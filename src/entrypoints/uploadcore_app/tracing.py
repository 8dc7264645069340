"""Traces, where they are asked for by the standard `OTEL_…` variables and the extra `telemetry` is installed. Otherwise nothing.

Spans are made at our own seams, by hand: instrumentation that hooks into HTTP clients and drivers records whole URLs, and ours are signed.
What a span may tell is named here: routes, statuses, ids of uploads and files, outcomes. No URL, address, token, owner or message of an
error.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Any

from uploadcore.records import ID
from uploadcore_app.errors import ConfigurationError
from uploadcore_app.outcomes import FAILURES, outcome_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import SpanKind

__all__ = ["Span", "Tracing", "current_trace_id", "trace_use_cases", "tracing_from"]

log = logging.getLogger("uploadcore.telemetry")

EXPORTERS = "opentelemetry_traces_exporter"
_UNVERIFIED = frozenset({"upload_not_found", "file_not_found", "invalid_request", "database_unavailable"})
"""Outcomes that leave it open whether what the caller gave as an id is one: it may be anything, and is not told."""
OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""Names of the exporters, by `OTEL_EXPORTER_OTLP_PROTOCOL`."""
LAST_WORD = 3.0
"""Seconds that sending what is left may take at the end. The SDK's own bound is 30, in which an orchestrator kills what it stops."""


class Span:
    """One span, current from `begin` to `end`, which the same task calls."""

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token", "_tracing")

    def __init__(
        self, tracing: Tracing, name: str, kind: SpanKind, attributes: Mapping[str, str | int], parent: Any = None
    ) -> None:
        """Begin nothing yet."""
        self._tracing = tracing
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._parent = parent

    def begin(self) -> None:
        """Begin it, as a child of the current one."""
        tracing = self._tracing
        self._span: OtelSpan = tracing.tracer.start_span(
            self._name, context=self._parent, kind=self._kind, attributes=self._attributes
        )
        self._token = tracing.context.attach(tracing.api.set_span_in_context(self._span))

    @property
    def trace_id(self) -> str:
        """The trace it belongs to, in hexadecimal."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def answered(self, method: str, route: str, status: int, request_id: str, problem: str | None) -> None:
        """End that of a request.

        Args:
            method: Of HTTP.
            route: Its template, not the path.
            status: Of the answer; 0: there was none.
            request_id: As the log has it.
            problem: The code of the problem document that was the answer, if it was one.
        """
        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("uploadcore.request_id", request_id)
        self.end(problem or ("ok" if status else "cancelled"))

    def tell(self, name: str, value: str) -> None:
        """Add an attribute."""
        self._span.set_attribute(name, value)

    def end(self, outcome: str) -> None:
        """End it with one word on how it went."""
        self._span.set_attribute("uploadcore.outcome", outcome)
        if outcome in FAILURES:
            self._span.set_status(self._tracing.api.StatusCode.ERROR, outcome)
        self._tracing.context.detach(self._token)
        self._span.end()


class Tracing:
    """Makes spans with one tracer provider."""

    def __init__(self, provider: TracerProvider) -> None:
        """Make spans with `provider`, which is this one's to shut down."""
        from opentelemetry import context, trace  # noqa: PLC0415 - only where traces are made
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self.api = trace
        self.context = context
        self._provider = provider
        self.tracer = provider.get_tracer("uploadcore", _version())
        self._propagator = TraceContextTextMapPropagator()

    def call(self, name: str) -> Span | None:
        """A span of a call to a port, below the one of what asks for it; none by itself: the relay asks all day long."""
        if not self.api.get_current_span().get_span_context().is_valid:
            return None
        return Span(self, name, self.api.SpanKind.CLIENT, {})

    def work(self, name: str) -> Span:
        """A span of something done here."""
        return Span(self, name, self.api.SpanKind.INTERNAL, {})

    def request(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """A span of a request that is served, in the trace its caller names (W3C Trace Context)."""
        carried = {
            name.decode(): value.decode("latin-1") for name, value in headers if name in {b"traceparent", b"tracestate"}
        }
        parent = self._propagator.extract(carried, self.context.Context()) if carried else self.context.Context()
        return Span(self, method, self.api.SpanKind.SERVER, {"http.request.method": method}, parent)

    def close(self) -> None:
        """Send what is left. Blocks for `LAST_WORD` at most: a collector that is away must not hold up the end of a process."""
        ending = threading.Thread(target=self._provider.shutdown, name="uploadcore-last-spans", daemon=True)
        ending.start()
        ending.join(LAST_WORD)
        if ending.is_alive():
            log.warning("the last spans were not taken within %s s, and are lost", LAST_WORD)


def current_trace_id() -> str | None:
    """The trace that what runs now belongs to; `None` where it belongs to none, or none are made."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    found = api.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else None


def tracing_from(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """What the `OTEL_…` variables ask for; `None` where they ask for no traces, or what it takes is not installed.

    Raises:
        ConfigurationError: They ask for an exporter that is not installed, or for what can't be.
    """
    names = _exporters(environment)
    if not names:
        return None
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        log.warning(
            "OTEL_… variables ask for traces and %s is not installed: pip install 'uploadcore[telemetry]'", exc.name
        )
        return None
    installed = {entry.name: entry for entry in entry_points(group=EXPORTERS)}
    unknown = [name for name in names if name not in installed]
    if unknown:
        raise ConfigurationError(
            f"OTEL_TRACES_EXPORTER: no exporter {unknown[0]!r} is installed (there are: {', '.join(sorted(installed))})"
        )
    is_named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    described = {"service.version": _version(), **({} if is_named else {"service.name": "uploadcore"})}
    try:
        provider = TracerProvider(resource=Resource.create(described), shutdown_on_exit=False)
        for name in names:
            provider.add_span_processor(BatchSpanProcessor(installed[name].load()()))
    except ValueError as exc:
        raise ConfigurationError(f"an OTEL_… variable can't be used: {exc}") from exc
    return Tracing(provider)


def _exporters(environment: Mapping[str, str]) -> list[str]:
    """Names of entry points, as the OpenTelemetry specification reads the environment; and none where nothing is set at all."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    has_endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} & environment.keys()
    asked = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if has_endpoint else "none")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = OTLP.get(protocol or "http/protobuf", protocol or "")
    names = [name.strip() for name in asked.split(",")]
    return [otlp if name == "otlp" else name for name in names if name not in {"", "none"}]


def trace_use_cases(service: object, area: str, tracing: Tracing) -> None:
    """Put a span around every use case of a service: its public coroutine methods.

    Args:
        service: `core.uploads` or `core.files`; or the core itself, for what runs in the background.
        area: First word of the spans' names; and, before `_id`, of the attribute that tells the first argument.
        tracing: Makes the spans.
    """
    for name, method in inspect.getmembers(service, inspect.iscoroutinefunction):
        if not name.startswith("_") and name not in {"close", "run_background"}:
            setattr(service, name, _in_span(method, name, area, tracing))


def _in_span(
    method: Callable[..., Awaitable[Any]], name: str, area: str, tracing: Tracing
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def traced(*args: Any, **kwargs: Any) -> Any:
        span = tracing.work(f"{area} {name}")
        span.begin()
        outcome = "ok"
        try:
            return await method(*args, **kwargs)
        except BaseException as exc:
            outcome = outcome_of(exc)
            raise
        finally:
            if args and outcome not in _UNVERIFIED and ID.fullmatch(str(args[0])):
                span.tell(f"uploadcore.{area}_id", str(args[0]))
            span.end(outcome)

    return traced


def _version() -> str:
    try:
        return version("uploadcore")
    except PackageNotFoundError:  # run from a folder that was copied, not installed
        return "unknown"
