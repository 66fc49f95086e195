"""What nobody desires any more, as the timer found it last."""

from collections.abc import Collection, Mapping
from datetime import UTC
from typing import Any, Final

from commands.context import CommandContext
from commands.terminal import console, fail, print_table
from shared.subscriptions.unwanted import UNWANTED_FOR, Unwanted, Waits

_WHY: Final = {
    Waits.FIRST_RECORD: "waits: it was unwanted when the timer first looked",
    Waits.EMERGENCY: "waits: it is of an emergency policy",
    Waits.LAST_OF_ITS_KIND: "waits: it is the last of its kind in the tenant",
    Waits.TOO_MANY: "waits: too many would go within a day",
    Waits.SWITCHED_OFF: "stays: UNSUBSCRIBE is never",
}


async def unwanted_by_id(context: CommandContext) -> dict[str, Unwanted]:
    """What the last run of the timer found in all tenants, that which has waited longest first.

    It is read from storage, for Graph may show nothing to whoever runs this.

    Raises:
        UnavailableError: storage did not answer.
    """
    unwanted: dict[str, Unwanted] = {}
    for tenant_id in sorted(context.settings.tenant_ids):
        review = (await context.known.load(tenant_id)).memory.review
        if review is not None:
            unwanted |= review.unwanted
    return dict(sorted(unwanted.items(), key=lambda item: (item[1].since, item[0])))


def chosen(unwanted: Mapping[str, Unwanted], ids: Collection[str] | None, *, as_json: bool) -> dict[str, Unwanted]:
    """What waits for a confirmation, or those of it that are named; ends the command where one does not wait."""
    waiting = {identity: entry for identity, entry in unwanted.items() if entry.needs_confirmation}
    if strangers := [identity for identity in ids or () if identity not in waiting]:
        fail(f"{strangers[0]} does not wait for a confirmation", reason="not-waiting", as_json=as_json)
    return {identity: entry for identity, entry in waiting.items() if not ids or identity in ids}


def print_unwanted(unwanted: Mapping[str, Unwanted]) -> None:
    """Print what is unwanted, if something is, with what will become of it."""
    if not unwanted:
        return
    print_table(
        ("unwanted", "kind", "since (UTC)", "what next", "resource"),
        (
            (identity, entry.kind, f"{entry.since.astimezone(UTC):%m-%d %H:%M}", _what_next(entry), entry.resource)
            for identity, entry in unwanted.items()
        ),
        below=4,
    )
    if any(entry.needs_confirmation for entry in unwanted.values()):
        console().print("what waits goes with: python manage.py subscriptions confirm", style="dim", soft_wrap=True)


def unwanted_json(unwanted: Mapping[str, Unwanted]) -> list[dict[str, Any]]:
    return [
        {
            "subscriptionId": identity,
            "kind": entry.kind,
            "resource": entry.resource,
            "since": entry.since.isoformat(),
            "waits": entry.waits,
        }
        for identity, entry in unwanted.items()
    ]


def _what_next(entry: Unwanted) -> str:
    if entry.waits is not None:
        return _WHY[entry.waits]
    earliest = (entry.since + UNWANTED_FOR).astimezone(UTC)
    return f"goes at {earliest:%H:%M} UTC at the earliest, unless something asks for it"
