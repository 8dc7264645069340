"""What has happened in one `UploadCore` since it was made, in plain numbers: for metrics, of whatever kind the host makes of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime

from uploadcore.views import SweepReport

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Numbers that only grow, counted by this process alone. No name in them is a caller's: there is a bounded number of each.

    Attributes:
        moves: Changes of an upload's state, once they are committed, by the state that was reached.
        reads: Records asked for where a copy will do, by the kind of record and what was found: `hit`; `absent`, where a copy says that
            there is no such record; `miss`, where the database was asked.
        deliveries: Events brought to a destination, by its name, the type of event and what became of it: `delivered`; `failed`, to be tried
            again; `dead`.
        sweeps: Passes of the sweeper, by how they ended: `ok`, or `failed`, where one could not even ask what is due.
        sweep_seconds: What those that ended `ok` took.
        swept: What they did, by field of `SweepReport`.
        swept_at: When the last of them ended, by this process's clock.
        has_more_to_sweep: Whether the last of them left work that was due.
    """

    moves: Counter[str] = field(default_factory=Counter)
    reads: dict[str, Counter[str]] = field(default_factory=dict)
    deliveries: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    sweeps: Counter[str] = field(default_factory=Counter)
    sweep_seconds: float = 0.0
    swept: Counter[str] = field(default_factory=Counter)
    swept_at: datetime | None = None
    has_more_to_sweep: bool = False

    def count_sweep(self, report: SweepReport, *, seconds: float, at: datetime) -> None:
        """Count a pass that has ended.

        Args:
            report: What it did.
            seconds: What it took.
            at: When it ended.
        """
        self.sweeps["ok"] += 1
        self.sweep_seconds += seconds
        self.swept_at = at
        self.has_more_to_sweep = report.more
        self.swept.update({name: done for name, done in asdict(report).items() if type(done) is int})
