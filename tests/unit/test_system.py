"""The clock and the ids of a real process keep their contracts."""

from __future__ import annotations

import pytest

from uploadcore.system import RandomIds, SystemClock
from uploadcore.testing import ClockContract, IdFactoryContract


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self) -> SystemClock:
        return SystemClock()


class TestRandomIds(IdFactoryContract):
    @pytest.fixture
    def ids(self) -> RandomIds:
        return RandomIds()
