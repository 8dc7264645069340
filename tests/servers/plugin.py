"""The servers as fixtures of the session: `postgres_server`, `redis_server`, `s3_server`. A test's id says which one it went to.

A run ends with a table of which adapter ran against which server, and with a scan for secrets, which fails it where it finds one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import swift
from tests.servers.choice import KINDS, Servers
from tests.servers.postgres import ExternalPostgres
from tests.servers.process import ServerError
from tests.servers.redis import ExternalRedis
from tests.servers.report import Tally
from tests.servers.s3 import S3Server
from tests.servers.scan import Scan

SERVERS = pytest.StashKey[Servers]()
TALLY = pytest.StashKey[Tally]()
SCAN = pytest.StashKey[Scan]()
FOLDER = pytest.StashKey[Path]()

SCANNED_SECTIONS = ("log", "stderr")
"""Of what pytest captured. Standard output is a command's answer, which may well be a URL."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = Servers()
    config.stash[TALLY] = Tally()
    config.stash[SCAN] = Scan()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVERS].stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    servers = metafunc.config.stash[SERVERS]
    for kind in KINDS:
        if f"{kind}_server" in metafunc.fixturenames:
            ids = servers.ids(kind)
            metafunc.parametrize(f"{kind}_server", ids, ids=ids, indirect=True, scope="session")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make Swift's environment before the first test's clock runs. Where that fails, the test that needs it says so."""
    wanted = any("s3-swift" in item.nodeid for item in session.items)
    if wanted and not session.config.option.collectonly:
        try:
            swift.install()
        except ServerError as error:
            session.config.get_terminal_writer().line(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.config.stash[TALLY].count(item, report)
    scan = item.config.stash[SCAN]
    for title, text in report.sections:
        _, section, phase = title.split()  # "Captured log call"; a later phase's report has the earlier ones' too
        if section in SCANNED_SECTIONS and phase == report.when:
            scan.look(f"{title} of {item.nodeid}", text.encode(errors="replace"))
    if report.when == "teardown":
        scan.count("tests' captured logs")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    stash = session.config.stash
    if FOLDER not in stash:
        return
    scan = stash[SCAN]
    scan.folder(stash[FOLDER])
    scan.servers(stash[SERVERS])
    if scan.findings:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if FOLDER not in config.stash:
        return
    scan = config.stash[SCAN]
    terminalreporter.section("adapters and servers")
    for line in config.stash[TALLY].lines(config.stash[SERVERS]):
        terminalreporter.line(line)
    for line in scan.lines():
        terminalreporter.line(line, red=bool(scan.findings))


@pytest.fixture(scope="session", autouse=True)
def _scanned_folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> None:
    pytestconfig.stash[FOLDER] = tmp_path_factory.getbasetemp()


def server_of(kind: str, request: pytest.FixtureRequest) -> Any:
    servers = request.config.stash[SERVERS]
    asked: str | None = getattr(request, "param", None)
    if asked is None:
        asked = next(iter(servers.ids(kind)), None)
    if asked is None:
        pytest.skip("; ".join(f"no {name}: {why}" for name, why in servers.absent.items()))
    return servers.get(kind, asked)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[ExternalPostgres]:
    """A PostgreSQL in which databases can be made. Where the rest of the suite leaves it no processor for seconds, it is not taken to be away."""
    server: ExternalPostgres = server_of("postgres", request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uploadcore_sql.postgres_pulse.SILENCE", 30.0)
        yield server


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> ExternalRedis:
    """A Redis. Where `can_fail` says so it is a `RedisServer`, which can be paused and killed."""
    server: ExternalRedis = server_of("redis", request)
    return server


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """A store that speaks S3, in which buckets can be made."""
    server: S3Server = server_of("s3", request)
    return server
