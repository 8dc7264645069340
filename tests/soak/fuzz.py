"""Wrong, missing and foreign input on every route: schemathesis over the OpenAPI document, all checks, stateful."""

from __future__ import annotations

import importlib


def run(*, seed: int, max_examples: int = 300) -> list[str]:
    """Run it at full scale."""
    line: str = importlib.import_module("tests.integration.http.fuzzing").run_schemathesis(max_examples, seed)
    return [line]
