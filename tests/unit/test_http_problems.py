"""Problem details: every code has a status and a title, here and nowhere else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec
import pytest

from uploadcore import errors
from uploadcore.errors import (
    FileNotReadyError,
    OverloadedError,
    PartsMissingError,
    StoreUnavailableError,
    UploadBusyError,
    UploadClosedError,
    UploadCoreError,
)
from uploadcore_http import problems
from uploadcore_http.problems import STATUS, TITLES, Problem, problem_response

ALL = {
    kind.code
    for module in (errors, problems)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, UploadCoreError)
}


def test_every_code_has_a_status_and_a_title_and_none_is_left_over() -> None:
    assert ALL == set(STATUS) == set(TITLES)


def test_a_code_is_a_stable_word() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in STATUS)


def test_only_defects_and_outages_are_5xx() -> None:
    server_side = {code for code, status in STATUS.items() if status >= 500}

    assert server_side == {"internal", "store_unavailable", "database_unavailable", "overloaded", "storage_full"}


def problem_of(error: UploadCoreError) -> Problem:
    return msgspec.json.decode(problem_response(error, "r-1").body, type=Problem)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            UploadClosedError(upload_id="u", state="aborted", reason="expired"),
            {"state": "aborted", "reason": "expired"},
        ),
        (FileNotReadyError(file_id="f", status="uploading"), {"state": "uploading", "file_id": "f"}),
        (UploadBusyError("busy", upload_id="u", retry_after=3), {"retry_after": 3, "upload_id": "u"}),
        (OverloadedError("much", retry_after=4), {"retry_after": 4}),
    ],
)
def test_a_problem_has_what_the_caller_needs_to_go_on(error: UploadCoreError, expected: dict[str, object]) -> None:
    problem = problem_of(error)

    assert {name: getattr(problem, name) for name in expected} == expected
    assert (problem.detail, problem.request_id) == (error.message, "r-1")


def test_missing_parts_are_ranges() -> None:
    problem = problem_of(PartsMissingError(upload_id="u", missing=[(2, 575)], mismatched=[576]))

    assert ([tuple(one) for one in problem.missing or ()], list(problem.mismatched or ())) == ([(2, 575)], [576])


def test_an_outage_says_when_to_come_back() -> None:
    assert (problem_of(StoreUnavailableError("away")).retry_after or 0) >= 1


def test_the_documentation_has_every_code_under_its_status() -> None:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| (.+) \|$", text, re.MULTILINE)

    assert {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)} == STATUS
