"""What a person is shown of a host's log."""

from pathlib import Path

from dev.log_tail import LogTail, Told

INFO = "2026-11-29T10:00:00.001Z INFO    receive_notifications: nothing new\n"
WARNING = "2026-11-29T10:00:01.002Z WARNING receive_notifications: notifications refused: reason=client-state count=1\n"
ERROR = "2026-11-29T10:00:02.003Z ERROR   host: drain_poison failed: ValueError\n"
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: no\n'

REFUSED = Told("10:00:01", "WARNING", "receive_notifications: notifications refused: reason=client-state count=1")
FAILED = Told("10:00:02", "ERROR", "host: drain_poison failed: ValueError")


def test_it_is_what_needs_attention_and_each_once(tmp_path: Path) -> None:
    log, tail = tmp_path / "log", LogTail()
    log.write_text(INFO + WARNING)
    assert tail.news([log]) == [REFUSED]
    assert tail.news([log]) == []
    log.write_text(INFO + WARNING + ERROR + INFO)
    assert tail.news([log]) == [FAILED]


def test_a_traceback_goes_with_its_error(tmp_path: Path) -> None:
    log, tail = tmp_path / "log", LogTail()
    log.write_text(ERROR + TRACEBACK + INFO + TRACEBACK)
    assert [told.text for told in tail.news([log])] == [FAILED.text, *TRACEBACK.splitlines()]


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    log, tail = tmp_path / "log", LogTail()
    log.write_text(WARNING[:40])
    assert tail.news([log]) == []
    log.write_text(WARNING)
    assert tail.news([log]) == [REFUSED]


def test_a_log_that_begins_anew_is_read_anew(tmp_path: Path) -> None:
    log, tail = tmp_path / "log", LogTail()
    assert tail.news([log]) == []
    log.write_text(INFO + ERROR)
    tail.news([log])
    log.write_text(WARNING)
    assert tail.news([log]) == [REFUSED]
