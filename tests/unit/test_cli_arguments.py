"""Arguments that can't be used, and the help that says which can."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from uploadcore_app import load_settings, open_app
from uploadcore_cli.commands import uploadcore


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests."""
    for name in ("UPLOADCORE_URL", "UPLOADCORE_TOKEN", "UPLOADCORE_AUTH_JWT_KEY", "UPLOADCORE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UPLOADCORE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("UPLOADCORE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(uploadcore, arguments)


def test_help_lists_every_command_and_every_exit_status() -> None:
    shown = run("--help").stdout

    for command in (
        "serve",
        "upload",
        "ls",
        "resume",
        "abort",
        "get",
        "token",
        "sweep",
        "worker",
        "events",
        "migrate",
        "demo",
    ):
        assert f"\n  {command} " in shown
    for status in ("0  done", "4  no server answers", "8  no room left", "130  Ctrl-C"):
        assert status in shown


@pytest.mark.parametrize(
    "command",
    ["serve", "upload", "ls", "resume", "abort", "get", "token", "sweep", "worker", "events", "migrate", "demo"],
)
def test_every_command_has_help(command: str) -> None:
    result = run(command, "--help")

    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["upload"], "Missing argument 'FILE...'"),
        (["upload", "x", "--parallel", "0"], "0 is not in the range 1<=x<=64"),
        (["upload", "x", "--part-size", "huge"], "'huge' is no size"),
        (["upload", "x", "--url", "ftp://x"], "the server's address is http://host:port"),
        (["upload", "x", "--url", "http://127.0.0.1:99999"], "the server's address is http://host:port"),
        (["ls", "--url", "http://127.0.0.1:port"], "the server's address is http://host:port"),
        (["get", "x", "--url", "http://[::1"], "the server's address is http://host:port"),
        (["upload", "x", "--token", "a b"], "no token has"),
        (["ls", "--state", "lost"], "'lost' is not one of"),
        (["get"], "Missing argument 'FILE'"),
        (["abort"], "Missing argument 'UPLOAD...'"),
        (["token"], "UPLOADCORE_AUTH_JWT_KEY"),
        (["serve", "--port", "70000"], "70000 is not in the range"),
        (["serve", "--host", "0.0.0.0"], "no authentication is configured"),
        (["serve", "--public-url", "nowhere"], "UPLOADCORE_PUBLIC_URL"),
        (["demo", "--size", "3"], "can't be interrupted"),
    ],
)
def test_arguments_that_can_not_be_used_are_one_line_and_status_2(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("written", "bytes_"),
    [
        ("8388608", 8 * 1024**2),
        ("8MiB", 8 * 1024**2),
        ("1.5GiB", 3 * 2**29),
        ("8 MB", 8_000_000),
        ("8k", 8_000),
        ("7B", 7),
    ],
)
def test_sizes_are_understood(written: str, bytes_: int) -> None:
    from uploadcore_cli.options import ByteCount

    assert ByteCount().convert(written, None, None) == bytes_


def test_nothing_unfinished_is_said_and_is_no_failure() -> None:
    result = run("resume")

    assert result.exit_code == 0
    assert "nothing is unfinished" in result.stderr


def test_a_token_is_one_the_service_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from uploadcore_http.auth import Principal
    from uploadcore_http.tokens import JwtAuthenticator, SharedKey

    key = "a secret of 32 bytes or more, please"
    monkeypatch.setenv("UPLOADCORE_AUTH_JWT_KEY", key)
    authenticate = JwtAuthenticator(SharedKey(key), audience="uploadcore", issuer="uploadcore")

    result = run("token", "--owner", "alice", "--lifetime", "5m")

    token = result.stdout.strip().encode()
    scope = {"type": "http", "headers": [(b"authorization", b"Bearer " + token)]}
    assert asyncio.run(authenticate(scope)) == Principal("alice")
    assert key not in result.output


@pytest.mark.parametrize("lifetime", ["", "5", "h", "-1h", "0s", "1y"])
def test_a_lifetime_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, lifetime: str) -> None:
    monkeypatch.setenv("UPLOADCORE_AUTH_JWT_KEY", "a secret of 32 bytes or more, please")

    assert run("token", "--lifetime", lifetime).exit_code == 2


def test_sweep_says_what_it_would_do() -> None:
    result = run("sweep", "--dry-run", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["dry_run"] is True
    assert run("sweep").stdout == "nothing to do\n"


async def _two_expired() -> None:
    settings = load_settings(upload_lifetime="0.001", part_size_min=1)
    async with open_app(settings) as app:
        for _ in range(2):
            await app.core.uploads.initiate(owner="dev", filename="a", size=20 * 1024**2)


def test_sweep_says_what_it_would_free_and_then_frees_it() -> None:
    asyncio.run(_two_expired())

    would_be, done = run("sweep", "--dry-run"), run("sweep")

    assert would_be.stdout.splitlines()[0] == "would be done"
    assert done.stdout.splitlines()[0] == "done"
    shown = [[line.split()[:2] for line in result.stdout.splitlines()[1:-1]] for result in (would_be, done)]
    assert shown[0] == shown[1]
    assert ["expired", "2"] in shown[0]
    assert "freed: multiparts" in done.stdout
    assert run("sweep").stdout == "nothing to do\n"


def test_demo_does_not_touch_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()

    result = run("demo", "--dir", "mine", "--size", "1MiB")

    assert result.exit_code == 3
    assert (tmp_path / "mine" / "precious").exists()


def test_demo_says_how_much_room_it_needs_before_it_takes_any(tmp_path: Path) -> None:
    result = run("demo", "--size", "4000TiB")

    assert result.exit_code == 8
    assert "needs 8800.0 TiB free" in result.stdout
    assert not (tmp_path / ".uploadcore-demo").exists()


def test_without_its_packages_the_command_names_the_extra() -> None:
    """In a Python that sees our sources and the standard library, and nothing else."""
    import uploadcore
    import uploadcore_cli

    paths = [str(Path(package.__file__ or "").parents[1]) for package in (uploadcore, uploadcore_cli)]
    script = f"import sys; sys.path[:0] = {paths!r}; from uploadcore_cli.main import main; main()"

    ran = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)

    assert ran.returncode != 0
    assert "pip install 'uploadcore[client]'" in ran.stderr
    assert "Traceback" not in ran.stderr
