"""What a run ends with: which adapter ran against which server, and what was not available."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.servers.choice import KINDS, Servers
from uploadcore import testing

FIXTURES = {
    testing.ObjectStoreContract: "store",
    testing.DatabaseContract: "database",
    testing.CacheContract: "cache",
    testing.EventPublisherContract: "publisher",
    testing.ClockContract: "clock",
    testing.IdFactoryContract: "ids",
}
"""What each contract's fixture is called that gives the adapter."""

WITHOUT_SERVER = {
    "FilesystemObjectStore": "a folder",
    "SqlDatabase": f"SQLite {sqlite3.sqlite_version}",
    "WebhookPublisher": "a receiver",
}
IN_PROCESS = "none, in memory"


@dataclass
class Tally:
    """Counts the tests of a run by what they ran against."""

    contracts: dict[tuple[str, str, str], Counter[str]] = field(default_factory=dict)
    """Outcomes by port, adapter and server's id, which is empty where there is no server."""
    others: Counter[str] = field(default_factory=Counter)
    """Tests that are no contract's, by server's id."""

    def count(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Count a test when it was called, or did not come so far."""
        if (
            not isinstance(item, pytest.Function)
            or (report.when != "call" and report.passed)
            or report.when == "teardown"
        ):
            return
        used = [server_id for kind in KINDS if (server_id := _server_id(item, kind))]
        contract = next((one for one in FIXTURES if item.cls is not None and issubclass(item.cls, one)), None)
        if contract is None:
            self.others.update(used)
            return
        adapter = item.funcargs.get(FIXTURES[contract])
        name = item.cls.__name__ if adapter is None else type(adapter).__name__
        key = (contract.__name__.removesuffix("Contract"), name, used[0] if used else "")
        self.contracts.setdefault(key, Counter())[report.outcome] += 1

    def lines(self, servers: Servers) -> Iterator[str]:
        """The table, line by line."""
        rows = [("port", "adapter", "server", "contract tests")]
        for (port, adapter, server_id), outcomes in sorted(self.contracts.items()):
            server = _name(servers, server_id) if server_id else WITHOUT_SERVER.get(adapter, IN_PROCESS)
            rows.append((port, adapter, server, _counts(outcomes)))
        if self.contracts:
            yield from _aligned(rows)
        for server_id, tests in sorted(self.others.items()):
            yield f"{_name(servers, server_id)}: {tests} other tests"
        for name, why in servers.absent.items():
            yield f"not available: {name}: {why}"


def _server_id(item: pytest.Function, kind: str) -> str | None:
    """From the test's own parameters: a server that failed to start has an id all the same."""
    parameters: Mapping[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    server_id: str | None = parameters.get(f"{kind}_server")
    return server_id


def _name(servers: Servers, server_id: str) -> str:
    return servers.names.get(server_id, f"{server_id}, which did not start")


def _counts(outcomes: Counter[str]) -> str:
    return ", ".join(
        f"{outcomes[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped") if outcomes[outcome]
    )


def _aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    kept = list(rows)
    widths = [max(len(row[column]) for row in kept) for column in range(len(kept[0]))]
    for row in kept:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
