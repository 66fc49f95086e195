"""The figures of "What it costs" in docs/deploy.md against what the templates deploy by default."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.deployed import deployed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text().partition("## What it costs")[2].partition("\n## ")[0]

# List prices of 2026 in US regions, in dollars ("Azure Functions pricing", "Azure Monitor pricing").
ALWAYS_READY = 0.000004  # a GB-second of an instance that is kept
ALWAYS_READY_BUSY = 0.000016  # and of one at work
ON_DEMAND = 0.000026
FREE_GB_SECONDS = 100_000  # a month and subscription
LOG_ALERT = {"PT5M": 1.50, "PT15M": 0.50, "PT6H": 0.50}
AVAILABILITY_TEST = 0.0006  # each
METRIC_ALERT = 0.10

MONTH = 730 * 3600  # seconds
RENEWAL_SECONDS, DRAIN_SECONDS = 2, 1  # of each run, at least a second being billed


def memory() -> float:
    """GB of an instance."""
    scale = deployed().properties("Microsoft.Web/sites")["functionAppConfig"]["scaleAndConcurrency"]
    (ready,) = scale["alwaysReady"]
    assert ready == {"name": "http", "instanceCount": 1}
    return float(scale["instanceMemoryMB"]) / 1024


def runs_a_month() -> float:
    return MONTH / float(deployed().properties("Microsoft.Insights/webtests")["Frequency"])


def alerts() -> float:
    rules = [rule["properties"] for rule in deployed().of_type("Microsoft.Insights/scheduledQueryRules")]
    return sum(LOG_ALERT[rule["evaluationFrequency"]] for rule in rules if rule["enabled"])


def timers(gigabytes: float) -> float:
    every = int(re.findall(r"\*/(\d+)", deployed().settings()["RENEWAL_SCHEDULE"])[0]) * 60
    gb_seconds = gigabytes * (MONTH / every * RENEWAL_SECONDS + MONTH / 60 * DRAIN_SECONDS)
    return max(0.0, gb_seconds - FREE_GB_SECONDS) * ON_DEMAND


# Of an instance's gigabytes.
PARTS: dict[str, Callable[[float], float]] = {
    "one always-ready instance": lambda size: size * MONTH * ALWAYS_READY,
    "the timers": timers,
    "log alerts": lambda _size: alerts(),
    "the availability test": lambda size: (
        runs_a_month() * (AVAILABILITY_TEST + size * ALWAYS_READY_BUSY) + METRIC_ALERT
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_line_is_what_is_deployed(part: str) -> None:
    (said,) = re.findall(rf"^\| {part}.*\| \$([\d.]+) \|$", PAGE, re.MULTILINE)

    assert float(said) == pytest.approx(PARTS[part](memory()), abs=0.05)


@pytest.mark.parametrize(("pattern", "size"), [(r"^About (\d+) US dollars", memory()), (r"512 MB about (\d+)", 0.5)])
def test_the_sum_is_what_the_lines_come_to(pattern: str, size: float) -> None:
    (said,) = re.findall(pattern, PAGE, re.MULTILINE)
    storage_and_vault = 1 + 0.5, 7 + 0.5

    least, most = (sum(part(size) for part in PARTS.values()) + rest for rest in storage_and_vault)
    assert least <= int(said) <= most
