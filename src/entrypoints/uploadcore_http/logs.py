"""Logging: one line of JSON (or, on a terminal, of text) per event, the standard library's loggers included."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from uploadcore_app import current_trace_id

__all__ = ["RequestLine", "RequestLog", "configure_logging", "log_request", "request_log"]


class RequestLine(msgspec.Struct):
    """What the log tells of a request. No path, no query, no header: any of them may hold a secret.

    Attributes:
        route: The template of the route, not the path.
        ms: Milliseconds from the head of the request to the end of its answer.
        owner: Who asked, where that was asked.
        trace_id: The trace it belongs to, where traces are made.
    """

    request_id: str
    method: str
    route: str
    status: int
    ms: float
    owner: str | None
    timestamp: datetime
    trace_id: str | msgspec.UnsetType = msgspec.UNSET
    event: str = "request"
    level: str = "info"
    logger: str = "uploadcore.http"


RequestLog = Callable[[RequestLine], None]
"""Writes a line for a request that was answered."""

_QUIET = {
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,  # logs whole URLs, signatures included
    "httpcore": logging.WARNING,
    "urllib3": logging.ERROR,  # logs whole URLs, and so storage addresses; of a broken header even as a warning
    "uvicorn.access": logging.CRITICAL,  # logs query strings
    "uvicorn.error": logging.WARNING,
}


def configure_logging(log_format: str, level: str) -> None:
    """Send everything that is logged in this process to stderr.

    Args:
        log_format: `json`, `console`, or `auto`: console if stderr is a terminal.
        level: Least level that is logged.
    """
    before: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Never structlog's own tracebacks on a terminal: they show local variables, and among those are tokens and signed URLs.
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if _is_console(log_format)
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
        )
    )
    # Libraries that log by structlog, where it is installed, would write to stdout by themselves.
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(threshold, least))


def _add_trace(_: Any, __: str, event: EventDict) -> EventDict:
    """Name the trace that what is logged belongs to."""
    if (trace_id := current_trace_id()) is not None:
        event.setdefault("trace_id", trace_id)
    return event


def _json(event: dict[str, Any], **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _is_console(log_format: str) -> bool:
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def request_log(log_format: str, level: str) -> RequestLog | None:
    """What writes a line per request, or `None` where the level leaves them out."""
    if level not in {"debug", "info"}:
        return None
    return log_request if _is_console(log_format) else _log_as_json


def log_request(line: RequestLine) -> None:
    """A line as this process's logging is configured to write it."""
    values = msgspec.structs.asdict(line)
    for name in ("event", "level", "logger", "timestamp"):  # logging has its own
        del values[name]
    if line.trace_id is msgspec.UNSET:
        del values["trace_id"]
    _log.info("request", extra=values)


_log = logging.getLogger("uploadcore.http")
_encode = msgspec.json.Encoder().encode


def _log_as_json(line: RequestLine) -> None:
    """The same line without the machinery of logging, which would take half as long as the request it tells of."""
    sys.stderr.write(_encode(line).decode() + "\n")
