"""What a host's log files say from now on that a person should see: warnings, errors, and their tracebacks."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

_RECORD: Final = re.compile(r"[\d-]+T(?P<time>[\d:]+)\.\d+Z (?P<level>\w+) +(?P<text>.*)")
_TOLD: Final = frozenset({"WARNING", "ERROR", "CRITICAL"})


class Told(NamedTuple):
    """A line worth showing; the lines of a traceback have no time of their own."""

    time: str
    level: str
    text: str


class LogTail:
    """Reads files on that grow, and that begin anew when their program does."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}
        self._level: dict[Path, str] = {}

    def news(self, files: Iterable[Path]) -> list[Told]:
        """What has come since it was asked last, whole lines alone."""
        return [told for file in files for told in self._of(file)]

    def _of(self, file: Path) -> Iterator[Told]:
        if not file.exists():
            return
        done = self._read.get(file, 0)
        if file.stat().st_size < done:
            done = 0
        with file.open("rb") as log:
            log.seek(done)
            whole, end, _ = log.read().rpartition(b"\n")
        self._read[file] = done + len(whole) + len(end)
        for line in whole.decode(errors="replace").splitlines():
            record = _RECORD.fullmatch(line)
            if record is not None:
                self._level[file] = record["level"]
            level = self._level.get(file, "")
            if level in _TOLD:
                yield Told(record["time"], level, record["text"]) if record else Told("", level, line)
