"""Logging: one line of JSON (or, on a terminal, of text) per event, the standard library's loggers included."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog
from structlog.typing import Processor

__all__ = ["RequestLine", "RequestLog", "configure_logging", "log_with_structlog", "request_log"]


class RequestLine(msgspec.Struct):
    """What the log tells of a request. No path, no query, no header: any of them may hold a secret.

    Attributes:
        route: The template of the route, not the path.
        ms: Milliseconds from the head of the request to the end of its answer.
        owner: Who asked, where that was asked.
    """

    request_id: str
    method: str
    route: str
    status: int
    ms: float
    owner: str | None
    timestamp: datetime
    event: str = "request"
    level: str = "info"


RequestLog = Callable[[RequestLine], None]
"""Writes a line for a request that was answered."""

_QUIET = {
    "httpx": logging.WARNING,  # logs whole URLs, signatures included
    "httpcore": logging.WARNING,
    "uvicorn.access": logging.CRITICAL,  # logs query strings
    "uvicorn.error": logging.WARNING,
}


def configure_logging(log_format: str, level: str) -> None:
    """Send everything that is logged in this process to stderr.

    Args:
        log_format: `json`, `console`, or `auto`: console if stderr is a terminal.
        level: Least level that is logged.
    """
    is_console = _is_console(log_format)
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(threshold, least))


def _json(event: dict[str, Any], **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _is_console(log_format: str) -> bool:
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def request_log(log_format: str, level: str) -> RequestLog | None:
    """What writes a line per request, or `None` where the level leaves them out."""
    if level not in {"debug", "info"}:
        return None
    return log_with_structlog if _is_console(log_format) else _log_as_json


def log_with_structlog(line: RequestLine) -> None:
    """A line as structlog is configured to write it."""
    values = msgspec.structs.asdict(line)
    for name in ("event", "level", "timestamp"):  # structlog's own
        del values[name]
    structlog.get_logger("uploadcore_http").info("request", **values)


_encode = msgspec.json.Encoder().encode


def _log_as_json(line: RequestLine) -> None:
    """The same line without structlog's machinery, which would take half as long as the request it tells of."""
    sys.stderr.write(_encode(line).decode() + "\n")
