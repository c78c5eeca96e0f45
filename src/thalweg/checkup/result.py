"""What a checkup found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from thalweg.tables import Table, Tabular

State = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of what.
        state: "good", "note" (works, but should be known) or "bad" (nothing can be measured, or it would mean nothing).
        found: what was found, in a line.
        mend: what to do next; empty where nothing has to be done.
    """

    name: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Checkup(Tabular):
    """What `doctor` found.

    Attributes:
        checks: in the order in which they were made; after a bad one those that need it are left out.
        costs: seconds and bytes: `loss_seconds`, `gradient_seconds`, `product_seconds`,
            `analysis_seconds`, `analysis_products`, `trial_seconds` (one arm), `graph_bytes`, `basis_bytes`,
            `free_bytes`, `disk_bytes` (of 1,000 recorded steps), `free_disk_bytes`; those that could be measured.
        following: what to run next, a command or a sentence.
    """

    checks: tuple[Check, ...]
    costs: dict[str, float]
    following: str

    @property
    def healthy(self) -> bool:
        """Whether nothing is bad."""
        return all(check.state != "bad" for check in self.checks)

    def to_table(self) -> Table:
        """A row for each check."""
        return Table.of([asdict(check) for check in self.checks])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "healthy": self.healthy}

    def __str__(self) -> str:
        marks = {"good": "ok  ", "note": "note", "bad": "BAD "}
        lines = []
        for check in self.checks:
            lines.append(f"{marks[check.state]}  {check.name:<14} {check.found}")
            if check.mend:
                lines.append(f"      {'':<14} → {check.mend}")
        return "\n".join([*lines, "", f"next: {self.following}"])
