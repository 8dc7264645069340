"""Runs the examples: the docstrings' (`>>>`), and the Python and bash blocks of README.md and docs/."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from tests.soak.service import Service

pytest_plugins = ["tests.servers.plugin"]

DEFAULT_URL = "http://127.0.0.1:8484"


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the examples of one document leave their files."""
    folder, before = tmp_path_factory.mktemp("examples"), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="session")
def example_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Service]]:
    """Gives the service that the bash examples talk to; started for the first of them."""
    started: list[Service] = []

    def service() -> Service:
        if not started:
            started.append(Service(tmp_path_factory.mktemp("service")))
            started[0].start()
        return started[0]

    yield service
    for one in started:
        one.kill()


def run_bash(example: Example) -> None:
    """Run a block as a reader would, with the port of our own service for the default one."""
    service: Service = example.document.namespace["example_service"]()
    environment = {**service.environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = str(example.parsed).replace(DEFAULT_URL, service.url)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


pytest_collect_file = (
    Sybil(path="src", pattern="*.py", parsers=[DocTestParser()])
    + Sybil(
        path=".",
        patterns=["README.md", "docs/*.md"],
        parsers=[PythonCodeBlockParser(), CodeBlockParser(language="bash", evaluator=run_bash), SkipParser()],
        fixtures=["example_folder", "example_service"],
    )
).pytest()
