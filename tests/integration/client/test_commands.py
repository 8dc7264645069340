"""What the client's commands print, of a far end that behaves and one that does not."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.integration.client.scripted import FarEnd, Handler
from uploadcore_cli.commands import uploadcore


@pytest.fixture(autouse=True)
def _alone(far: FarEnd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests."""
    monkeypatch.delenv("UPLOADCORE_TOKEN", raising=False)
    monkeypatch.setenv("UPLOADCORE_URL", far.url)
    monkeypatch.setenv("UPLOADCORE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(uploadcore, arguments)


@pytest.mark.parametrize(("names_checksum", "said"), [(True, "checksum verified"), (False, "no checksum to compare")])
def test_get_says_whether_a_checksum_was_compared(far: FarEnd, *, names_checksum: bool, said: str) -> None:
    far.files["f1"] = b"content"
    far.names_checksum = names_checksum

    shown, document = run("get", "f1"), run("get", "f1", "--force", "--json")

    assert shown.stdout.endswith(f", {said}\n")
    assert json.loads(document.stdout)["verified"] is names_checksum


def ctrl_c() -> Callable[..., bool]:
    """Interrupts the command once, and leaves it without an answer until it has ended."""
    presses: Iterator[bool] = iter([True])

    def press(handler: Handler, *_: object) -> bool:
        if not next(presses, False):
            return False
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        handler.rfile.read()  # up to its end: when the client closes the connection
        handler.cut()
        return True

    return press


def commands_of(result: Result) -> list[list[str]]:
    assert result.exit_code == 130
    lines = [line.strip() for line in result.stderr.splitlines() if line.startswith("  uploadcore ")]
    return [shlex.split(line)[1:] for line in lines]


def test_after_ctrl_c_the_command_that_goes_on_with_a_download_has_all_its_options(far: FarEnd, tmp_path: Path) -> None:
    far.files["f1"] = b"content"
    (tmp_path / "a copy").write_bytes(b"old")
    far.before_content = ctrl_c()

    (command,) = commands_of(run("get", "f1", "-o", "a copy", "-f", "--json", "--token", "secret"))

    assert command == ["get", "f1", "--output", "a copy", "--force", "--json", "--url", far.url]
    assert run(*command).exit_code == 0
    assert (tmp_path / "a copy").read_bytes() == b"content"


def test_after_ctrl_c_the_commands_that_go_on_with_uploads_have_all_their_options(far: FarEnd, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(os.urandom(1000))
    options = ["--title", "My talk", "--content-type", "video/mp4", "--part-size", "500"]
    far.before_part = ctrl_c()

    commands = commands_of(run("upload", "one", "two", "three", *options, "--parallel", "1"))

    assert commands == [
        ["resume", "u1", "--parallel", "1", "--url", far.url],
        ["upload", "two", "three", *options, "--parallel", "1", "--url", far.url],
    ]
    assert [run(*command).exit_code for command in commands] == [0, 0]
    asked = [(each.body["filename"], each.body["title"], each.body["part_size"]) for each in far.uploads.values()]
    assert asked == [("one", "My talk", 500), ("two", "My talk", 500), ("three", "My talk", 500)]


def test_after_ctrl_c_an_upload_that_declares_sha256_goes_on_to_declare_it(far: FarEnd, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(os.urandom(1000))
    far.before_part = ctrl_c()

    commands = commands_of(run("upload", "--sha256", "one", "two"))

    assert commands == [["upload", "one", "two", "--sha256", "--url", far.url]]
    assert run(*commands[0]).exit_code == 0
    assert len(far.uploads) == 2


def test_after_ctrl_c_resume_goes_on_with_all_that_it_was_to(far: FarEnd, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(os.urandom(1000))
        far.before_part = ctrl_c()
        run("upload", name)
    far.before_part = ctrl_c()

    commands = commands_of(run("resume", "--json"))

    assert commands == [["resume", "--json", "--url", far.url]]
    assert len(run(*commands[0]).stdout.splitlines()) == 2
