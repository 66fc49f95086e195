"""The status as a page: no script, nothing from elsewhere, everything escaped."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from shared.operations.activity import MINUTES
from shared.operations.checks import Check
from shared.operations.limits import Level
from shared.operations.status import (
    Checks,
    Events,
    Problem,
    Quarantine,
    Queues,
    Renewal,
    Status,
    Subscriptions,
    Unwanted,
)
from shared.subscriptions.renewal_state import Runner
from shared.values.consumers import POISON_SUFFIX
from shared.values.times import span

_HERE: Final = Path(__file__).parent
_TEMPLATE: Final = Template((_HERE / "status.html").read_text("utf-8"))
_STYLE: Final = (_HERE / "status.css").read_text("utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address may hold the function's key
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}
"""What the page is to be sent with."""

_HEADLINES: Final = {
    Level.WELL: "all is well",
    Level.ATTENTION: "needs attention",
    Level.BAD: "not well",
}
# Said in words as well, for whoever sees no colours.
_WORDS: Final = {Level.WELL: "", Level.ATTENTION: "attention", Level.BAD: "bad"}


def page(status: Status) -> str:
    """The whole document, in UTF-8 and no other encoding."""
    return _TEMPLATE.substitute(
        style=_STYLE,
        level=status.level,
        headline=_HEADLINES[status.level],
        at=escape(f"{status.at:%Y-%m-%d %H:%M:%S} UTC"),
        health=_checks(status.health) if isinstance(status.health, Checks) else _section(status.health),
        subscriptions=_section(status.subscriptions),
        renewal=_section(status.renewal),
        queues=_section(status.queues),
        quarantine=_section(status.quarantine),
        events=_section(status.events),
    )


def _section(section: Subscriptions | Renewal | Queues | Quarantine | Events | Problem) -> str:
    match section:
        case Subscriptions():
            return _subscriptions(section)
        case Renewal():
            return _renewal(section)
        case Queues():
            return _queues(section)
        case Quarantine():
            return _quarantine(section)
        case Events():
            return _events(section)
        case Problem():
            return f'<p class="problem {section.level}">{escape(section.problem)}</p>'


def _checks(health: Checks) -> str:
    well = ", ".join(name for name, check in health.checks.items() if check.level is Level.WELL)
    problems = "".join(
        f'<p class="problem {check.level}">{escape(f"{name}: {check.finding}")}{_remedy(check)}</p>'
        for name, check in health.checks.items()
        if check.level is not Level.WELL
    )
    return problems + (f"<p>well: {escape(well)}</p>" if well else "")


def _remedy(check: Check) -> str:
    return "" if check.remedy is None else f' <span class="soft">→ {escape(check.remedy)}</span>'


def _subscriptions(subscriptions: Subscriptions) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in subscriptions.by_kind.items())
    counts = f"{subscriptions.live} live of {subscriptions.desired} wanted" + (f": {kinds}" if kinds else "")
    rows = (
        (
            f"<td>{escape(row.kind)} <code>{escape(row.id)}</code></td>",
            f'<td class="bar {row.level}">{_bar(row.life_left)}</td>',
            _marked(_span(row.remaining_seconds) if row.remaining_seconds > 0 else "lapsed", row.level),
        )
        for row in subscriptions.nearest
    )
    shown = len(subscriptions.nearest)
    note = f'<p class="soft">the {shown} nearest to their end</p>' if shown < subscriptions.live else ""
    if subscriptions.previous_client_state:
        count = subscriptions.previous_client_state
        note = f'<p class="soft">{count:,} of them still carry the previous client state</p>{note}'
    if not subscriptions.lists_whole:
        note = f'<p class="soft">Graph did not give the whole list: there may be more</p>{note}'
    return f"<p>{escape(counts)}</p>{note}" + _table(("kind and id", "life left", "#"), rows)


def _renewal(renewal: Renewal) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in renewal.outcomes.items()) or "nothing to do"
    failures = "".join(f'<p class="problem bad">{escape(failure)}</p>' for failure in renewal.failures)
    by = "" if renewal.by == Runner.TIMER else f", by {renewal.by}"
    text = f"{_span(renewal.seconds_ago)} ago ({renewal.finished:%Y-%m-%d %H:%M:%S} UTC{by}): {outcomes}"
    trouble = "" if renewal.trouble is None else f'<p class="problem {renewal.level}">{escape(renewal.trouble)}</p>'
    return f"{trouble}<p>{escape(text)}</p>{failures}{_kept(renewal)}{_unwanted(renewal.unwanted)}"


def _kept(renewal: Renewal) -> str:
    if not renewal.kept:
        return ""
    rows = (
        (
            f"<td>{escape(row.kind)} <code>{escape(row.id)}</code></td>",
            _cell(row.reason),
            _cell("" if row.replaced_from is None else f"{row.replaced_from:%m-%d %H:%M}", "number"),
            _cell(f"{row.expires:%m-%d %H:%M}", "number"),
        )
        for row in renewal.kept
    )
    note = '<p class="soft">not renewed by Graph, or not with what is current, and kept: every run tries again</p>'
    return note + _table(("kind and id", "why", "#replaced from (UTC)", "#ends (UTC)"), rows)


def _unwanted(unwanted: Unwanted) -> str:
    if not unwanted.count:
        return ""
    note = f'<p class="soft">{unwanted.count:,} that nobody desires any more</p>'
    if unwanted.waiting:
        text = f"{unwanted.waiting:,} of them wait for manage.py subscriptions confirm"
        note += f'<p class="problem attention">{text}</p>'
    rows = (
        (
            f"<td>{escape(row.kind)} <code>{escape(row.id)}</code></td>",
            _cell(row.waits or "goes by itself"),
            _cell(f"{row.since:%m-%d %H:%M}", "number"),
        )
        for row in unwanted.listed
    )
    return note + _table(("kind and id", "what next", "#since (UTC)"), rows)


def _queues(queues: Queues) -> str:
    shown = [row for row in queues.queues if row.depth or row.oldest_seconds or not row.name.endswith(POISON_SUFFIX)]
    rows = (
        (
            _cell(row.name),
            _cell(f"{row.depth:,}", "number"),
            _marked("" if row.oldest_seconds is None else _span(row.oldest_seconds), row.level),
        )
        for row in shown
    )
    table = _table(("queue", "#messages", "#oldest"), rows)
    return f'{table}<p class="soft">poison queues are listed where something lies on them</p>'


def _quarantine(quarantine: Quarantine) -> str:
    if not quarantine.total:
        return "<p>empty</p>"
    rows = ((_cell(reason), _cell(f"{count:,}", "number")) for reason, count in quarantine.by_reason.items())
    total = f"{quarantine.total:,}" + ("" if quarantine.complete else " or more")
    return f'<p class="problem {quarantine.level}">{total} parked</p>' + _table(("reason", "#parked"), rows)


def _events(events: Events) -> str:
    notes = ""
    if events.refused:
        style = "soft" if events.received else "problem attention"
        notes += f'<p class="{style}">{events.received:,} accepted, {sum(events.refused.values()):,} refused</p>'
        refusals = ((_cell(reason), _cell(f"{count:,}", "number")) for reason, count in events.refused.items())
        notes += _table(("refused because of", "#notifications"), refusals)
    if events.emergencies:
        emergencies = ", ".join(f"{count:,} {outcome}" for outcome, count in events.emergencies.items())
        notes += f'<p class="soft">{escape(f"emergencies where they were received: {emergencies}")}</p>'
    if not events.by_minute:
        return f"{notes}<p>none in the last {MINUTES} minutes</p>"
    rows = (
        (
            _cell(event_type.removeprefix("Microsoft.Graph.")),
            f'<td class="bar">{_spark(counts)}</td>',
            _cell(f"{sum(counts) / events.minutes:.1f}", "number"),
        )
        for event_type, counts in events.by_minute.items()
    )
    return notes + _table(("type", f"last {MINUTES} minutes", "#mean a minute"), rows)


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of ready cells; a heading that begins with # is of numbers."""
    head = "".join(
        f'<th scope="col" class="number">{escape(heading[1:])}</th>'
        if heading.startswith("#")
        else f'<th scope="col">{escape(heading)}</th>'
        for heading in headings
    )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, style: str = "") -> str:
    return f'<td class="{style}">{escape(text)}</td>' if style else f"<td>{escape(text)}</td>"


def _marked(text: str, level: Level) -> str:
    """A cell of a number that says, if it is not well, so."""
    word = _WORDS[level]
    return f'<td class="number">{escape(text)}{f' <b class="{level}">{word}</b>' if word else ""}</td>'


def _bar(share: float) -> str:
    """SVG rather than a styled element: the policy allows no style attribute."""
    percent = round(share * 100)
    return (
        f'<svg role="img" aria-label="{percent} %"><rect class="track" width="100%" height="100%" rx="3"/>'
        f'<rect class="fill" width="{percent}%" height="100%" rx="3"/></svg>'
    )


def _spark(counts: list[int]) -> str:
    """A column for each minute, on a scale of its own: the rare must be seen beside the frequent."""
    width, highest = 100 / len(counts), max(counts)
    bars = "".join(
        f'<rect class="fill" x="{place * width:.2f}%" y="{100 - 100 * count / highest:.1f}%" '
        f'width="{width * 0.8:.2f}%" height="{100 * count / highest:.1f}%"/>'
        for place, count in enumerate(counts)
        if count
    )
    label = ", ".join(map(str, counts))
    return f'<svg class="spark" role="img" aria-label="{label}">{bars}</svg>'


def _span(seconds: float) -> str:
    return span(timedelta(seconds=seconds))
