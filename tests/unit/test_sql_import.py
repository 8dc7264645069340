"""Importing the package without what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("missing", ["sqlalchemy", "alembic"])
def test_without_its_packages_the_import_names_the_extra_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import uploadcore_sql"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ImportError: uploadcore_sql needs packages that are not installed: pip install 'uploadcore[server]'"
    )


def test_without_the_driver_postgresql_names_the_extra_and_sqlite_goes_on_working(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['asyncpg'] = None; import asyncio; from uploadcore_sql import SqlDatabase; "
        f"asyncio.run(SqlDatabase('sqlite:///{tmp_path}/a.db').open()); print('open'); SqlDatabase('postgresql://db/uploads')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "open\n")
    assert result.stderr.splitlines()[-1] == (
        "ImportError: PostgreSQL needs packages that are not installed: pip install 'uploadcore[postgres]'"
    )
