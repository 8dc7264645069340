"""What Prometheus scrapes. Counted in plain dictionaries on the way and made into metrics when asked: a request pays next to nothing.

Every name is in `docs/observability.md`, with its meaning and unit. No label holds what a caller chose.

What alerts ask for is told from the start, as 0: Prometheus sees what a series grows by, and of one that begins at 1 that is nothing.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from uploadcore import UploadCore
from uploadcore.errors import UploadCoreError
from uploadcore.ports import Backlog
from uploadcore.states import UploadState
from uploadcore.tally import Tally
from uploadcore.views import SweepReport
from uploadcore_app import BUCKETS, Durations, Measurements
from uploadcore_http.problems import STATUS
from uploadcore_http.refreshing import Refreshed

__all__ = ["Metrics"]

BACKLOG_AGE = 5.0
"""Seconds the database's answer on what is pending is kept: several scrapers, or a token in the wrong hands, must not become its work."""
BACKLOG_TIMEOUT = 2.0
"""Seconds it may take. A scrape without it says all that is known here."""
_STATES = dict.fromkeys(map(str, UploadState), 0)
_SWEPT = tuple(name for name, done in asdict(SweepReport()).items() if type(done) is int and name != "bytes")
_STORE_CALLS = (
    "create_multipart",
    "list_parts",
    "complete_multipart",
    "abort_multipart",
    "list_multiparts",
    "head",
    "delete",
    "put_marker",
)
_STORE_FAULTS = tuple(product(_STORE_CALLS, ("store_unavailable", "overloaded", "storage_full", "unexpected")))
_DATABASE_FAULTS = tuple(product(("read", "write"), ("database_unavailable", "overloaded", "unexpected")))
_CACHE_WRITES = dict.fromkeys(
    product(("upload", "file", "other"), ("stored", "overtaken", "dropped", "unavailable")), 0
)


class Metrics(Collector):
    """Requests, and what one core and its ports tell of themselves.

    Args:
        core: Whose tally and backlog are told; `None`: requests only.
        measurements: Of its ports; `None`: nobody measures them, and nothing is told of them.
        max_in_flight: The limit of requests served at a time, to be shown beside their number.
    """

    def __init__(
        self,
        core: UploadCore | None = None,
        measurements: Measurements | None = None,
        *,
        max_in_flight: int | None = None,
    ) -> None:
        self.in_flight = 0
        self._core = core
        self._measurements = measurements
        self._max_in_flight = max_in_flight
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations = Durations()
        self.problems: Counter[str] = Counter(dict.fromkeys(STATUS, 0))
        self._backlog: tuple[Backlog, ...] = ()
        self._asked = Refreshed()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        counts = self._counts
        key = (method, route, status)
        counts[key] = counts.get(key, 0) + 1
        self._durations.observe((method, route), seconds)

    async def scraped(self, accept: str) -> tuple[bytes, str]:
        """The text, and its media type, that the scraper asked for."""
        if self._core is not None:
            await self._asked.within(BACKLOG_AGE, partial(self._ask_for_backlog, self._core))
        return self.exposed(accept)

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """The same, with the backlog that was last asked for."""
        encode, media_type = _encoder(accept)
        return encode(self._registry), media_type

    async def _ask_for_backlog(self, core: UploadCore) -> None:
        """What is pending, or nothing, where the database does not say: an old number would look like a new one."""
        try:
            async with asyncio.timeout(BACKLOG_TIMEOUT):
                self._backlog = await core.events.backlog()
        except (UploadCoreError, TimeoutError):
            self._backlog = ()

    def collect(self) -> Iterator[Metric]:
        """Make metrics of what was counted."""
        yield _counter(
            "uploadcore_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            (((method, route, str(status)), count) for (method, route, status), count in self._counts.copy().items()),
        )
        yield _histogram(
            "uploadcore_http_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ("method", "route"),
            self._durations,
        )
        yield _gauge("uploadcore_http_requests_in_flight", "Requests being served.", self.in_flight)
        if self._max_in_flight is not None:
            yield _gauge(
                "uploadcore_http_requests_in_flight_limit", "Of those to the API, so many at most.", self._max_in_flight
            )
        yield _counter(
            "uploadcore_http_problems",
            "Problem documents answered with, by their code.",
            ("code",),
            (((code,), count) for code, count in self.problems.copy().items()),
        )
        if self._core is not None:
            yield from _of_core(self._core.tally)
            yield from _of_backlog(self._backlog)
        if self._measurements is not None:
            yield from _of_ports(self._measurements)
        build = GaugeMetricFamily("uploadcore_build_info", "Which code runs.", labels=("version", "python"))
        build.add_metric((_version(), platform.python_version()), 1)
        yield build


def _of_core(tally: Tally) -> Iterator[Metric]:
    yield _counter(
        "uploadcore_upload_transitions",
        "Changes of an upload's state, by the state reached.",
        ("state",),
        (((state,), count) for state, count in {**_STATES, **tally.moves}.items()),
    )
    yield _counter(
        "uploadcore_cache_reads",
        "Records asked for where a copy will do.",
        ("kind", "result"),
        (((kind, result), count) for kind, found in tally.reads.items() for result, count in found.copy().items()),
    )
    yield _counter(
        "uploadcore_event_deliveries",
        "Events brought to their destinations.",
        ("destination", "type", "outcome"),
        tally.deliveries.copy().items(),
    )
    yield _counter(
        "uploadcore_sweeps",
        "Passes of the sweeper.",
        ("outcome",),
        (((outcome,), count) for outcome, count in tally.sweeps.copy().items()),
    )
    took = SummaryMetricFamily("uploadcore_sweep_duration_seconds", "What passes that ended well took.")
    took.add_metric((), tally.sweeps["ok"], tally.sweep_seconds)
    yield took
    yield _counter(
        "uploadcore_swept",
        "What the sweeper did.",
        ("what",),
        (((what,), tally.swept[what]) for what in _SWEPT),
    )
    yield CounterMetricFamily(
        "uploadcore_swept_bytes", "Bytes of parts and objects it removed from the store.", value=tally.swept["bytes"]
    )
    if tally.swept_at is not None:
        yield _gauge(
            "uploadcore_sweep_last_success_timestamp_seconds",
            "When the last pass ended well.",
            tally.swept_at.timestamp(),
        )
        yield _gauge(
            "uploadcore_sweep_has_more", "Whether that pass left work that was due.", float(tally.has_more_to_sweep)
        )


def _of_backlog(backlog: Iterable[Backlog]) -> Iterator[Metric]:
    pending = GaugeMetricFamily("uploadcore_events_pending", "Events to be delivered.", labels=("destination",))
    dead = GaugeMetricFamily("uploadcore_events_dead", "Dead letters.", labels=("destination",))
    oldest = GaugeMetricFamily(
        "uploadcore_events_oldest_pending_age_seconds",
        "Age of the oldest event to be delivered; 0 where there is none.",
        labels=("destination",),
    )
    for one in backlog:
        pending.add_metric((one.destination,), one.pending)
        dead.add_metric((one.destination,), one.dead)
        oldest.add_metric((one.destination,), 0.0 if one.oldest is None else one.oldest.total_seconds())
    yield from (pending, dead, oldest)


def _of_ports(measurements: Measurements) -> Iterator[Metric]:
    yield _histogram(
        "uploadcore_store_call_duration_seconds",
        "Calls to the store.",
        ("call", "outcome"),
        measurements.store,
        _STORE_FAULTS,
    )
    yield _histogram(
        "uploadcore_database_transaction_duration_seconds",
        "Transactions, from asking for one to the answer to its commit.",
        ("access", "outcome"),
        measurements.database,
        _DATABASE_FAULTS,
    )
    yield _counter(
        "uploadcore_cache_writes",
        "Copies put in the cache, or dropped from it.",
        ("kind", "result"),
        {**_CACHE_WRITES, **measurements.cache}.items(),
    )


def _counter(
    name: str, what: str, labels: tuple[str, ...], counted: Iterable[tuple[tuple[str, ...], float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, what, labels=labels)
    for values, count in counted:
        family.add_metric(values, count)
    return family


def _histogram(
    name: str, what: str, labels: tuple[str, ...], durations: Durations, known: Iterable[tuple[str, ...]] = ()
) -> HistogramMetricFamily:
    """A histogram. What is known to come and has not yet is told in one bucket: of all of them, most of a scrape would be zeros."""
    family = HistogramMetricFamily(name, what, labels=labels)
    for values in known:
        if values not in durations.counted:
            family.add_metric(values, [("+Inf", 0.0)], sum_value=0.0)
    for values, counted in durations.counted.items():
        family.add_metric(values, _cumulated(counted), sum_value=counted[-1])
    return family


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)


def _cumulated(counted: list[float]) -> list[tuple[str, float]]:
    total, buckets = 0.0, []
    for bound, count in zip((*BUCKETS, float("inf")), counted, strict=False):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    return buckets


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # `version=x`: the library compares what it finds there with numbers
        return choose_encoder("")


def _version() -> str:
    try:
        return version("uploadcore")
    except PackageNotFoundError:  # run from a folder that was copied, not installed
        return "unknown"
