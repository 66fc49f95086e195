"""What a run has found: kept as JSON, and written into docs/performance.md beside the run before it."""

import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from bench import scale
from bench.measure import Cost, Finding, Ratio, Stage, Throughput
from bench.page import DOCS, put

PAGE: Final = DOCS / "performance.md"
SCALING: Final = DOCS / "scaling.md"
_FOLDER: Final = Path(__file__).parent / "results"
_LATEST: Final = _FOLDER / "latest.json"
_COMPLETE: Final = _FOLDER / "complete.json"
_NONE: Final = "-"


@dataclass(slots=True)
class Results:
    """A run's figures, as they come."""

    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))
    machine: str = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    ratios: list[Ratio] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    throughputs: list[Throughput] = field(default_factory=list)

    def save(self, *, complete: bool) -> None:
        """Keep them; those of a complete run go into the page too."""
        _FOLDER.mkdir(exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(self))
        _LATEST.write_bytes(text)
        if complete:
            before = msgspec.json.decode(_COMPLETE.read_bytes(), type=Results) if _COMPLETE.exists() else None
            _COMPLETE.write_bytes(text)
            PAGE.write_text(self.written_into(PAGE.read_text(encoding="utf-8"), before), encoding="utf-8")
            lines = "\n".join([*scale.table(self.costs), "", *scale.told(self.costs)]) + "\n"
            SCALING.write_text(
                put(SCALING.read_text(encoding="utf-8"), "scale", "run.py bench", lines), encoding="utf-8"
            )

    def written_into(self, page: str, before: "Results | None") -> str:
        """A page with these tables in their places.

        Raises:
            ValueError: it has no place for one of them.
        """
        for name, lines in self.tables(before).items():
            page = put(page, name, "run.py bench", "\n".join(lines) + "\n")
        return page

    def tables(self, before: "Results | None") -> dict[str, list[str]]:
        """The page's tables by name, line by line; the figures stand beside those of the run before."""
        ratios = {} if before is None else {one.name: one.ratio for one in before.ratios}
        findings = {} if before is None else {one.name: one.value for one in before.findings}
        earlier = "" if before is None else f", and the run before it at {before.at}"
        return {
            "figures": [
                f"Run of {self.at}{earlier}; {self.machine}.\n",
                "| figure | ratio | lowest to highest | the run before | difference | itself | aim |",
                "|---|---:|---:|---:|---:|---:|---:|",
                *(_row(one, ratios.get(one.name)) for one in self.ratios),
                "",
                "| counted, and end to end on the emulator | this run | the run before |",
                "|---|---|---|",
                *(f"| {one.name} | {one.value} | {findings.get(one.name, _NONE)} |" for one in self.findings),
            ],
            "stages": ["| stage | µs | limit | which is |", "|---|---:|---:|---|", *map(_stage_row, self.stages)],
            "costs": [
                "| to a POST | format | executions | GB-seconds | storage operations | USD |",
                "|---:|---|---:|---:|---:|---:|",
                *(
                    f"| {one.items} | {one.form} | {one.executions:,.0f} | {one.gb_seconds:,.0f} |"
                    f" {one.operations:,.0f} | {one.dollars:.2f} |"
                    for one in self.costs
                ),
            ],
        }


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    return f"{seconds * 1e6:,.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.1f} ms"


def _row(one: Ratio, before: float | None) -> str:
    earlier = _NONE if before is None else f"{before:.2f}"
    difference = _NONE if before is None else f"{(one.ratio - before) / before:+.0%}"
    spread = f"{one.low:.2f} to {one.high:.2f}"
    return (
        f"| {one.name} | {one.ratio:.2f} | {spread} | {earlier} | {difference} | {duration(one.seconds)} |"
        f" {one.target} |"
    )


def _stage_row(stage: Stage) -> str:
    limit = "" if stage.limit_seconds is None else f"{stage.limit_seconds * 1e6:.0f}"
    return f"| {stage.name} | {stage.seconds * 1e6:.0f} | {limit} | {stage.limit} |"
