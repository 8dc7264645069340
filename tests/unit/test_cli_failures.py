"""Errors as one line and an exit status."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import uploadcore_client
from uploadcore import errors
from uploadcore.errors import UploadCoreError
from uploadcore_cli.display import duration, plain, rate, size
from uploadcore_cli.failures import ExitStatus, of_error


def kinds() -> list[type[UploadCoreError]]:
    named = [getattr(module, name) for module in (errors, uploadcore_client) for name in module.__all__]
    return [kind for kind in named if inspect.isclass(kind) and issubclass(kind, UploadCoreError)]


def test_a_status_is_chosen_for_every_code_there_is() -> None:
    from uploadcore_cli.failures import _BY_CODE

    unchosen = {kind.code for kind in kinds()} - set(_BY_CODE)

    assert unchosen == {
        "idempotency_mismatch",
        "internal",
        "part_out_of_range",
        "parts_missing",
        "unexpected_answer",
        "version_conflict",
    }  # nothing a script could do about them: status 1


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (
            uploadcore_client.ServerUnreachableError("http://127.0.0.1:8484", "connection refused", refused=True),
            "no server at http://127.0.0.1:8484: start one with 'uploadcore serve'",
            ExitStatus.UNREACHABLE,
        ),
        (
            uploadcore_client.ServerUnreachableError("https://x", "it took too long"),
            "no answer from https://x: it took too long",
            ExitStatus.UNREACHABLE,
        ),
        (uploadcore_client.UnauthenticatedError("?"), "UPLOADCORE_TOKEN", ExitStatus.UNAUTHORISED),
        (errors.QuotaExceededError("3 of 3 uploads are open"), "quota used up: 3 of 3", ExitStatus.REFUSED),
        (errors.StorageFullError("the store is full"), "no room left: the store is full", ExitStatus.FULL),
        (uploadcore_client.FileChangedError(Path("/f"), "was replaced"), "/f was replaced", ExitStatus.LOCAL_FILE),
    ],
)
def test_an_error_is_one_clear_line(error: UploadCoreError, line: str, status: ExitStatus) -> None:
    failure = of_error(error)

    assert line in failure.message
    assert "\n" not in failure.message
    assert failure.exit_code == status


def test_sizes_times_and_rates_read_well() -> None:
    assert [size(0), size(1023), size(1024), size(5 * 1024**4)] == ["0 bytes", "1023 bytes", "1.0 KiB", "5.0 TiB"]
    assert [duration(59.94), duration(60), duration(3600)] == ["59.9 s", "1:00", "1:00:00"]
    assert rate(0, 0) == "0 bytes/s"


def test_names_can_not_steer_the_terminal() -> None:
    assert plain("a\x1b]0;x\x07\r\nb\u202e") == "a?]0;x???b?"
