# ruff: noqa: INP001 - a program, in a folder of files that are deployed
"""Writes `uploadcore.json`, the dashboard, beside itself. To change the dashboard, change this and run it; a test compares the two."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SELECTED = 'job=~"$job",instance=~"$instance"'
"""Of the selectors of every expression: what is chosen above the dashboard."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        queries: PromQL by legend. `{…}` becomes the selection; `{name="x"}` keeps what it selects besides.
        unit: Grafana's name of the unit.
        kind: Grafana's name of the kind of panel.
        note: What to look for.
    """

    title: str
    queries: dict[str, str]
    unit: str = "ops"
    kind: str = "timeseries"
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of panels, four across."""

    title: str
    panels: list[Panel] = field(default_factory=list)


def quantile(share: float, metric: str, *by: str, selecting: str = "") -> str:
    """The PromQL of a quantile of a histogram."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{selecting}}}[$__rate_interval])))"


HTTP = "uploadcore_http_request_duration_seconds"
STORE = "uploadcore_store_call_duration_seconds"
DATABASE = "uploadcore_database_transaction_duration_seconds"
API = 'route=~"/v1/.*"'
ASKED_OF_API = 'route=~"/v1/.*|refused"'
"""With what was refused before it was routed, which is fast, and so is no part of what routes take."""

ROWS = [
    Row(
        "Traffic",
        [
            Panel(
                "Requests",
                {
                    "{{method}} {{route}}": "sum by (method, route) (rate(uploadcore_http_requests_total{}[$__rate_interval]))"
                },
            ),
            Panel(
                "Share of 5xx",
                {
                    "all": 'sum(rate(uploadcore_http_requests_total{status=~"5.."}[$__rate_interval]))'
                    " / sum(rate(uploadcore_http_requests_total{}[$__rate_interval]))",
                    "API": f'sum(rate(uploadcore_http_requests_total{{{ASKED_OF_API},status=~"5.."}}[$__rate_interval]))'
                    f' / sum(rate(uploadcore_http_requests_total{{{ASKED_OF_API},status!~"401|429"}}[$__rate_interval]))',
                },
                "percentunit",
            ),
            Panel("p99 by route", {"{{route}}": quantile(0.99, HTTP, "route", selecting=API)}, "s"),
            Panel(
                "Signing",
                {
                    "p50": quantile(0.5, HTTP, selecting='route="/v1/uploads/{upload_id}/part-urls"'),
                    "p99": quantile(0.99, HTTP, selecting='route="/v1/uploads/{upload_id}/part-urls"'),
                },
                "s",
                note="The hot path: one read of a copy, no call to the store.",
            ),
            Panel(
                "Problems",
                {"{{code}}": "sum by (code) (rate(uploadcore_http_problems_total{}[$__rate_interval]))"},
                note="`internal` is a defect: the log has it under its request_id.",
            ),
            Panel(
                "Refused before routing",
                {
                    "{{status}}": 'sum by (status) (rate(uploadcore_http_requests_total{route="refused"}[$__rate_interval]))'
                },
                note="503: too many requests, or the issuer's keys can't be fetched; 429: one caller's limit; 401: nobody who is known.",
            ),
            Panel(
                "In flight",
                {
                    "{{instance}}": "uploadcore_http_requests_in_flight{}",
                    "limit": "min(uploadcore_http_requests_in_flight_limit{})",
                },
                "short",
            ),
        ],
    ),
    Row(
        "Uploads",
        [
            Panel(
                "Reached a state",
                {"{{state}}": "sum by (state) (rate(uploadcore_upload_transitions_total{}[$__rate_interval]))"},
            ),
            Panel(
                "How uploads ended, last hour",
                {
                    "{{state}}": "sum by (state) (increase(uploadcore_upload_transitions_total"
                    '{state=~"completed|aborted|expired|failed"}[1h]))'
                },
                "short",
                "bargauge",
            ),
            Panel(
                "Begun and completed, last day",
                {
                    "begun": 'sum(increase(uploadcore_upload_transitions_total{state="pending"}[1d]))',
                    "completed": 'sum(increase(uploadcore_upload_transitions_total{state="completed"}[1d]))',
                },
                "short",
                "stat",
            ),
            Panel(
                "p99 of completing",
                {"p99": quantile(0.99, HTTP, selecting='route="/v1/uploads/{upload_id}/complete"')},
                "s",
                note="A request waits up to 20 s for the store, and is then answered 202.",
            ),
        ],
    ),
    Row(
        "Store",
        [
            Panel("Calls", {"{{call}}": f"sum by (call) (rate({STORE}_count{{}}[$__rate_interval]))"}),
            Panel(
                "Calls that did not end well",
                {
                    "{{call}} {{outcome}}": f'sum by (call, outcome) (rate({STORE}_count{{outcome!="ok"}}[$__rate_interval]))'
                },
                note="`no_such_multipart` is an answer: what was completed or aborted is not there any more.",
            ),
            Panel("p99 by call", {"{{call}}": quantile(0.99, STORE, "call", selecting='outcome="ok"')}, "s"),
            Panel(
                "Share unanswered",
                {
                    "all": f'sum(rate({STORE}_count{{outcome=~"store_unavailable|overloaded|unexpected"}}[$__rate_interval]))'
                    f" / sum(rate({STORE}_count{{}}[$__rate_interval]))"
                },
                "percentunit",
            ),
        ],
    ),
    Row(
        "Database",
        [
            Panel("Transactions", {"{{access}}": f"sum by (access) (rate({DATABASE}_count{{}}[$__rate_interval]))"}),
            Panel(
                "Transactions that did not end well",
                {
                    "{{access}} {{outcome}}": f'sum by (access, outcome) (rate({DATABASE}_count{{outcome!="ok"}}[$__rate_interval]))'
                },
                note="`version_conflict`: another was faster. A few are the ordinary course of things.",
            ),
            Panel("p99 by access", {"{{access}}": quantile(0.99, DATABASE, "access", selecting='outcome="ok"')}, "s"),
        ],
    ),
    Row(
        "Cache",
        [
            Panel(
                "Share of reads answered from copies",
                {
                    "{{kind}}": 'sum by (kind) (rate(uploadcore_cache_reads_total{result=~"hit|absent"}[$__rate_interval]))'
                    " / sum by (kind) (rate(uploadcore_cache_reads_total{}[$__rate_interval]))"
                },
                "percentunit",
            ),
            Panel(
                "Reads",
                {
                    "{{kind}} {{result}}": "sum by (kind, result) (rate(uploadcore_cache_reads_total{}[$__rate_interval]))"
                },
            ),
            Panel(
                "Writes",
                {
                    "{{kind}} {{result}}": "sum by (kind, result) (rate(uploadcore_cache_writes_total{}[$__rate_interval]))"
                },
                note="`unavailable`: the cache does not answer; the database does its work.",
            ),
        ],
    ),
    Row(
        "Events",
        [
            Panel(
                "Deliveries",
                {
                    "{{destination}} {{outcome}}": "sum by (destination, outcome) "
                    "(rate(uploadcore_event_deliveries_total{}[$__rate_interval]))"
                },
            ),
            Panel(
                "To be delivered",
                {"{{destination}}": "max by (destination) (uploadcore_events_pending{})"},
                "short",
                note="The database's number, told by every instance: never add them up.",
            ),
            Panel(
                "Age of the oldest to be delivered",
                {"{{destination}}": "max by (destination) (uploadcore_events_oldest_pending_age_seconds{})"},
                "s",
            ),
            Panel(
                "Dead letters",
                {"{{destination}}": "max by (destination) (uploadcore_events_dead{})"},
                "short",
                "stat",
            ),
        ],
    ),
    Row(
        "Sweeper",
        [
            Panel(
                "What it did, last hour",
                {"{{what}}": "sum by (what) (increase(uploadcore_swept_total{}[1h]))"},
                "short",
                "bargauge",
            ),
            Panel(
                "Removed from the store",
                {"bytes": "sum(rate(uploadcore_swept_bytes_total{}[$__rate_interval]))"},
                "Bps",
            ),
            Panel(
                "Since a pass ended well",
                {"anywhere": "time() - max(uploadcore_sweep_last_success_timestamp_seconds{})"},
                "s",
                "stat",
            ),
            Panel(
                "What a pass takes",
                {
                    "{{instance}}": "rate(uploadcore_sweep_duration_seconds_sum{}[$__rate_interval])"
                    " / rate(uploadcore_sweep_duration_seconds_count{}[$__rate_interval])"
                },
                "s",
            ),
            Panel(
                "Passes",
                {
                    "{{outcome}}": "sum by (outcome) (rate(uploadcore_sweeps_total{}[$__rate_interval]))",
                    "left work": "min(uploadcore_sweep_has_more{})",
                },
                "short",
            ),
        ],
    ),
    Row(
        "Process",
        [
            Panel("CPU", {"{{instance}}": "rate(process_cpu_seconds_total{}[$__rate_interval])"}, "percentunit"),
            Panel("Memory", {"{{instance}}": "process_resident_memory_bytes{}"}, "bytes"),
            Panel("Open files", {"{{instance}}": "process_open_fds{}", "limit": "min(process_max_fds{})"}, "short"),
            Panel("Versions", {"{{version}}": "count by (version) (uploadcore_build_info{})"}, "short", "stat"),
        ],
    ),
]


def selected(expression: str) -> str:
    """The expression, with what is chosen above the dashboard in every selector."""
    # A `{` that stands for labels follows a metric's name; `{upload_id}` in a route follows a slash.
    parts = expression.split("{")
    joined = parts[0]
    for part in parts[1:]:
        if joined.endswith("/"):
            joined += "{" + part
        else:
            joined += "{" + SELECTED + ("" if part.startswith("}") else ",") + part
    return joined


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        panels.append(_placed({"type": "row", "title": row.title, "collapsed": False, "panels": []}, 0, top, 24, 1))
        top += 1
        for index, panel in enumerate(row.panels):
            panels.append(_placed(_panel(panel), index % 4 * 6, top + index // 4 * 8, 6, 8))
        top += (len(row.panels) + 3) // 4 * 8
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "title": "uploadcore",
        "uid": "uploadcore",
        "tags": ["uploadcore"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_datasource(), _variable("job", ""), _variable("instance", 'job=~"$job"')]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "expr": selected(expression),
            "legendFormat": legend,
            "datasource": _SOURCE,
            "instant": panel.kind != "timeseries",
            "range": panel.kind == "timeseries",
        }
        for index, (legend, expression) in enumerate(panel.queries.items())
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        defaults["custom"] = {"drawStyle": "line", "fillOpacity": 8, "showPoints": "never"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
    }


def _placed(panel: dict[str, Any], left: int, top: int, width: int, height: int) -> dict[str, Any]:
    return {**panel, "gridPos": {"x": left, "y": top, "w": width, "h": height}}


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(name: str, selecting: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values(uploadcore_build_info{{{selecting}}}, {name})", "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def written() -> str:
    """The text of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(Path(__file__).with_name("uploadcore.json").write_text(written()) == 0)
