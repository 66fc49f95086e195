"""All checks of `doctor`, made at once."""

import asyncio
from collections.abc import Mapping
from typing import Final

from commands import checks, identity_checks, subscription_checks
from commands.checks import Checking, Finding
from commands.context import CommandContext
from shared.operations.limits import Level
from shared.values.errors import SettingsError, UnavailableError

OPERATION: Final = {
    "renewal": "renewal timer",
    "functions": "functions",
    "rawMessages": "raw messages",
    "poison": "poison messages",
    "consumers": "consumers",
    "reception": "reception",
    "quarantine": "quarantine",
}
"""How the checks that health and the status page go by too are called here, by their ids."""


def _operation(identity: str) -> Checking:
    async def check(context: CommandContext) -> list[Finding]:
        result = await context.checks.of_operation[identity]()
        return [Finding(identity, OPERATION[identity], result.level, result.finding, result.remedy)]

    return check


CHECKS: Final[Mapping[str, Checking]] = {
    "storage": checks.storage,
    "certificate": checks.certificate,
    "certificatePolicy": checks.policy,
    "graphToken": identity_checks.identities,
    "validationTokens": identity_checks.validation_tokens,
    "signIn": identity_checks.sign_ins,
    "handshake": checks.handshakes,
    "subscriptions": subscription_checks.subscriptions,
    "kept": subscription_checks.kept,
    "previousClientState": subscription_checks.client_state,
    **{identity: _operation(identity) for identity in OPERATION},
    "leftoverQueues": checks.leftovers,
    "unclaimedKinds": subscription_checks.unclaimed,
    "telemetry": checks.ingestion,
}


async def examine(context: CommandContext) -> list[Finding]:
    """Make every check. One that depends on another's failure says so or is left out."""
    try:
        settings = context.settings
    except SettingsError as error:
        return checks.settings_findings(error)
    results = await asyncio.gather(*(make(identity, check, context) for identity, check in CHECKS.items()))
    first = Finding("settings", "settings", Level.WELL, f"{len(settings.tenant_ids)} tenant(s)")
    return [first, *(finding for findings in results for finding in findings)]


async def make(identity: str, check: Checking, context: CommandContext) -> list[Finding]:
    """Make a check. Whatever it meets is a finding too: the others are worth having all the same."""
    try:
        return await check(context)
    except (UnavailableError, SettingsError):
        return []  # the check of storage has said so
    except Exception as error:  # noqa: BLE001 - it is told, by its type: its text may hold data
        finding = f"could not be checked: an unexpected {type(error).__name__}"
        return [Finding(identity, identity, Level.BAD, finding, "report it, with the version (manage.py --version)")]
