"""What `deploy/` and `docs/observability.md` say of metrics, held against what a service exposes after an upload."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from dependency_injector import providers
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.integration.http.service import BASE, PEER
from uploadcore.errors import UploadCoreError
from uploadcore.states import UploadState
from uploadcore.views import SweepReport
from uploadcore_app import Container, load_settings
from uploadcore_app.measured import MeasuredStore
from uploadcore_http import create_app
from uploadcore_http.application import ROUTES, Running
from uploadcore_http.edge import REFUSED
from uploadcore_http.problems import STATUS
from uploadcore_memory import MemoryEventPublisher

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "deploy/grafana/uploadcore.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
ALERTS_AT_WORK = Path(__file__).with_name("alerts_at_work.yml")
DOCUMENT = ROOT / "docs/observability.md"

SCRAPED = {"job", "instance"}
"""Labels the scraper adds."""
RECORDED = {"le"}
METRIC = r"\b(?:uploadcore|process)_[a-z_]+\b"
SELECTOR = re.compile(rf"({METRIC})(?:\{{((?:[^{{}}\"]|\"[^\"]*\")*)\}})?")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
BY = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")


def codes() -> set[str]:
    """Every code an error of ours can have, whoever defines it."""
    found, todo = set(STATUS), [UploadCoreError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        found.add(kind.code)
    return found


VALUES = {
    "outcome": codes()
    | {"ok", "cancelled", "unexpected", "no_such_multipart", "parts_rejected", "delivered", "failed", "dead"},
    "code": codes(),
    "state": {str(state) for state in UploadState},
    "what": {field.name for field in fields(SweepReport)},
    "result": {"hit", "absent", "miss", "stored", "overtaken", "dropped", "unavailable"},
    "status": {"5..", "401", "429"},
    "route": {path.replace(":str", "") for handler in ROUTES for path in handler.paths} | {"/v1/.*", REFUSED},
    "job": {"$job"},
    "instance": {"$instance"},
}
"""What labels are compared with may be one of these, or several with `|` between."""


async def scraped(accept: str = "") -> httpx.Response:
    """What a service answers that nobody has asked for anything yet."""
    app = create_app(load_settings(storage="memory://", database="memory://", background=False))
    transport = httpx.ASGITransport(app, client=PEER)  # type: ignore[arg-type]
    async with Running.of(app).opened(), httpx.AsyncClient(transport=transport, base_url=BASE) as api:
        return await api.get("/metrics", headers={"accept": accept})


async def scraped_after_use() -> str:
    """What a service exposes after a bit of everything."""
    container = Container()
    container.publishers.override(providers.Object({"crm": MemoryEventPublisher()}))
    app = create_app(load_settings(storage="memory://", database="memory://", background=False), container)
    transport = httpx.ASGITransport(app, client=PEER)  # type: ignore[arg-type]
    async with Running.of(app).opened(), httpx.AsyncClient(transport=transport, base_url=BASE) as api:
        upload = (await api.post("/v1/uploads", json={"filename": "a", "size": 1})).json()
        for _ in range(2):
            await api.post(f"/v1/uploads/{upload['id']}/part-urls", json={"part_numbers": [1]})
        await api.delete(f"/v1/uploads/{upload['id']}")
        await api.get("/v1/uploads/unknown")
        await container.core().relay()
        await container.core().sweep()
        return (await api.get("/metrics")).text


@pytest.fixture(scope="module")
def fresh() -> str:
    """What a service exposes from the start."""
    return asyncio.run(scraped()).text


@pytest.fixture(scope="module")
def used() -> str:
    """What one exposes later."""
    return asyncio.run(scraped_after_use())


@pytest.fixture(scope="module")
def exposed(used: str) -> dict[str, set[str]]:
    """Names of samples, and the labels each has."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(used):
        assert family.samples, f"{family.name} has no sample: this upload does not reach it"
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, and where it stands."""
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]


def selected(text: str, name: str, matchers: str) -> list[Sample]:
    """What a selector finds in what was scraped."""
    asked = MATCHER.findall(matchers)
    return [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
        and all(
            (re.fullmatch(value if "~" in how else re.escape(value), sample.labels.get(label, "")) is None)
            == how.startswith("!")
            for label, how, value in asked
        )
    ]


EXPRESSIONS = [pytest.param(expression, id=where) for where, expression in expressions()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_is_exposed(expression: str, exposed: dict[str, set[str]]) -> None:
    asked = SELECTOR.findall(expression)
    assert asked
    known: set[str] = set()
    for name, matchers in asked:
        assert name in exposed
        known |= exposed[name]
        for label, _, value in MATCHER.findall(matchers):
            assert label in exposed[name] | SCRAPED, f"{name} has no label {label!r}"
            assert {value} <= VALUES[label] or set(value.split("|")) <= VALUES[label], f"{label}={value!r}"
        assert not MATCHER.sub("", matchers).strip(", "), f"not understood: {matchers}"
    for labels in BY.findall(expression):
        assert {label.strip() for label in labels.split(",")} <= known | SCRAPED | RECORDED


def named(matchers: str) -> list[dict[str, str]] | None:
    """The labels a selector names one by one; `None` where it has a pattern, and names nothing."""
    words: dict[str, list[str]] = {}
    for label, how, value in MATCHER.findall(matchers):
        if how not in {"=", "=~"} or (how == "=~" and re.fullmatch(r"[a-z_|]+", value) is None):
            return None
        words[label] = value.split("|") if how == "=~" else [value]
    return [dict(zip(words, values, strict=True)) for values in product(*words.values())]


def found_at(text: str, name: str) -> dict[frozenset[tuple[str, str]], float]:
    """What a metric has, by its labels."""
    return {frozenset(sample.labels.items()): sample.value for sample in selected(text, name, "")}


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in rules()])
def test_every_counter_an_alert_names_is_there_from_the_start_at_0(rule: dict[str, Any], fresh: str, used: str) -> None:
    # What Prometheus sees of a series is what it grows by: of one that begins at 1, nothing.
    for name, matchers in SELECTOR.findall(rule["expr"]):
        if not name.endswith(("_total", "_count", "_bucket")):
            continue
        combinations = None if name.endswith("_bucket") else named(matchers)
        if combinations is None:  # a share or a quantile of what goes on for a while does without its first
            assert "increase(" not in rule["expr"]
            assert "for" in rule
            continue
        at_first = found_at(fresh, name)
        for labels in filter(None, combinations):
            others = {
                frozenset((label, value) for label, value in series if label not in labels)
                for series in {**at_first, **found_at(used, name)}
            }
            assert others
            for rest in others:
                assert at_first.get(rest.union(labels.items())) == 0, f"{name} {labels} {dict(rest)}"


def test_every_call_to_the_store_that_is_measured_can_be_alerted_on_from_the_start(fresh: str) -> None:
    measured = {
        name
        for name, call in vars(MeasuredStore).items()
        if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)
    }
    told = selected(fresh, "uploadcore_store_call_duration_seconds_count", '{outcome="storage_full"}')

    assert {sample.labels["call"] for sample in told} == measured - {"open", "close"}


@pytest.mark.parametrize("version", ["x", "1.x", "=1"])
async def test_a_scraper_that_asks_for_a_version_that_is_none_is_told_in_plain_text(version: str) -> None:
    answer = await scraped(f"application/openmetrics-text;version={version}")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "uploadcore_build_info" in answer.text


async def test_requests_nobody_can_tell_the_sender_of_are_among_those_the_alert_on_errors_counts() -> None:
    issuer = {
        "auth_jwks_url": "http://127.0.0.1:9/keys",
        "auth_jwt_issuer": "i",
        "auth_jwt_audience": "a",
    }  # none there
    app = create_app(load_settings(storage="memory://", database="memory://", background=False, **issuer))
    transport = httpx.ASGITransport(app, client=PEER)  # type: ignore[arg-type]
    unverified = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"a"}').decode().rstrip("=") + ".e30.e30"
    async with Running.of(app).opened(), httpx.AsyncClient(transport=transport, base_url=BASE) as api:
        asked = await api.get("/v1/uploads", headers={"authorization": f"Bearer {unverified}"})
        text = (await api.get("/metrics")).text
    assert asked.status_code == 503

    failed, all_asked = SELECTOR.findall(next(rule["expr"] for rule in rules() if rule["alert"] == "UploadcoreErrors"))

    assert sum(sample.value for sample in selected(text, *failed)) == 1
    assert sum(sample.value for sample in selected(text, *all_asked)) == 1


def test_the_table_of_metrics_is_that_of_the_service(exposed: dict[str, set[str]]) -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|([^|]*)\|", DOCUMENT.read_text().partition("## Dashboard")[0], re.MULTILINE)
    documented = {name: set(re.findall(r"`([a-z]+)`", labels)) for name, labels in rows}
    told: dict[str, set[str]] = {}
    for name, labels in exposed.items():
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        told.setdefault(base if f"{base}_count" in exposed else name, set()).update(labels - {"le"})

    assert documented == told


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^### (Uploadcore\w+)\n\n\S", DOCUMENT.read_text(), re.MULTILINE)

    assert headings == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_the_dashboard_is_what_its_program_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("uploadcore_dashboard", ROOT / "deploy/grafana/dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look for it
    spec.loader.exec_module(module)

    assert DASHBOARD.read_text() == module.written(), "run deploy/grafana/dashboard.py"


def test_panels_have_a_place_and_a_number_of_their_own() -> None:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        squares = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not squares & taken, panel["title"]
        taken |= squares

    assert len({panel["id"] for panel in everything}) == len(everything)
    assert [panel["title"] for panel in everything if panel["type"] == "row"] == [
        "Traffic",
        "Uploads",
        "Store",
        "Database",
        "Cache",
        "Events",
        "Sweeper",
        "Process",
    ]
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    substituted = [
        {"record": f"panel:{number}", "expr": target["expr"].replace("$__rate_interval", "5m")}
        for number, target in enumerate(target for panel in panels() for target in panel["targets"])
    ]
    recorded = tmp_path / "panels.yml"
    recorded.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": substituted}]}))

    for path in (ALERTS, recorded):
        checked = subprocess.run(
            ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False, timeout=60
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    tested = subprocess.run(
        ["promtool", "test", "rules", str(ALERTS_AT_WORK)], capture_output=True, text=True, check=False, timeout=60
    )

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tried_both_ways() -> None:
    tried = [one for test in yaml.safe_load(ALERTS_AT_WORK.read_text())["tests"] for one in test["alert_rule_test"]]

    every = {rule["alert"] for rule in rules()}
    assert {one["alertname"] for one in tried if one["exp_alerts"]} == every
    assert {one["alertname"] for one in tried if not one["exp_alerts"]} == every
