"""What `doctor` looks at: each check says what it found and, where that is not well, how to mend it.

How a running app does is asked of `shared.operations.checks`, as by health and the status page; what it is set up with
is looked at here, and who it is in `identity_checks`.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlencode, urlsplit

import requests

from commands.context import CommandContext
from shared.operations.limits import CERTIFICATE_EXPIRES_SOON, Level
from shared.values.consumers import POISON_SUFFIX
from shared.values.errors import SettingsError, UnavailableError, UnknownCertificateError
from shared.values.resources import EVENT_QUEUES, RAW_QUEUE
from shared.values.times import span

_HANDSHAKE_SECONDS: Final = 10.0  # Graph's limit ("Receive change notifications through webhooks")
_SLOW_SECONDS: Final = 3.0
_KEY_SIZES: Final = range(2048, 4097)  # "Set up change notifications that include resource data"
_MEGABYTES_A_DAY: Final = 200  # an idle process sends about 6 (docs/telemetry.md)
_VALIDATION: Final = "Validation: doctor +%20&ä"  # what an endpoint that echoes carelessly would get wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, what was found, and what to do about it.

    `id` is the check's own and stable; `name` also says which of several things it was about.
    """

    id: str
    name: str
    level: Level
    finding: str
    remedy: str | None = None


type Checking = Callable[[CommandContext], Awaitable[list[Finding]]]
"""A check of `doctor`."""


def is_deployed() -> bool:
    """Whether this runs on the platform, where the app's managed identity is."""
    return "IDENTITY_ENDPOINT" in os.environ


async def storage(context: CommandContext) -> list[Finding]:
    """Whether queues and blobs can be reached."""
    try:
        questions = (
            ("queueStorage", "queue storage", "Storage Queue Data Contributor", context.queues.count(RAW_QUEUE)),
            ("blobStorage", "blob storage", "Storage Blob Data Contributor", context.blobs.get("state", "x")),
        )
    except SettingsError as error:
        return [_settings_problem(problem) for problem in error.problems]
    return [await _answer(context, *question) for question in questions]


async def _answer(context: CommandContext, identity: str, name: str, role: str, question: Awaitable[object]) -> Finding:
    try:
        await question
    except UnavailableError as error:
        by_key = context.storage_settings.connection_string is not None
        if error.reason != "storage-no-answer":
            remedy = "correct the key in AzureWebJobsStorage" if by_key else f"grant whoever runs this the role {role}"
        elif by_key or is_deployed():
            remedy = "check AzureWebJobsStorage and the account's firewall"
        else:
            remedy = "log in (az login), then check AzureWebJobsStorage and the account's firewall"
        return Finding(identity, name, Level.BAD, f"{error} ({error.reason})", remedy)
    return Finding(identity, name, Level.WELL, "answers")


def _settings_problem(problem: str) -> Finding:
    return Finding("settings", "settings", Level.BAD, problem, "set it in the app's settings, or in the settings file")


def settings_findings(error: SettingsError) -> list[Finding]:
    """What is wrong with the settings, one by one."""
    return [_settings_problem(problem) for problem in error.problems]


async def certificate(context: CommandContext) -> list[Finding]:
    """Whether the newest version of the certificate is one that Graph takes."""
    identity = name = "certificate"
    wanted = context.settings.certificate_name
    try:
        inspected = await context.certificates.inspect()
    except UnknownCertificateError:
        remedy = f"create an RSA certificate named {wanted} in Key Vault (az keyvault certificate create)"
        return [Finding(identity, name, Level.BAD, f"Key Vault has no RSA certificate {wanted}", remedy)]
    except UnavailableError as error:
        remedy = (
            "grant whoever runs this the role Key Vault Secrets User"
            if error.reason in {"key-vault-401", "key-vault-403"}
            else "check KEY_VAULT_URL and the vault's firewall"
        )
        if error.reason == "key-vault-no-answer" and not is_deployed():
            remedy = f"log in (az login), then {remedy}"
        return [Finding(identity, name, Level.BAD, f"{error} ({error.reason})", remedy)]
    left = inspected.expires - context.clock.now()
    facts = f"{inspected.id}, RSA {inspected.key_size}"
    rotate = "rotate it: az keyvault certificate create makes a new version, which renewals move to"
    if inspected.key_size not in _KEY_SIZES:
        remedy = f"make a key of 2048 bits; {rotate}"
        return [Finding(identity, name, Level.BAD, f"{facts}: Graph takes 2048 to 4096 bits", remedy)]
    if left <= timedelta(0):
        return [Finding(identity, name, Level.BAD, f"{facts}: expired {span(-left)} ago", rotate)]
    if left < CERTIFICATE_EXPIRES_SOON:
        return [Finding(identity, name, Level.ATTENTION, f"{facts}: expires in {span(left)}", rotate)]
    return [Finding(identity, name, Level.WELL, f"{facts}, expires in {span(left)}")]


async def policy(context: CommandContext) -> list[Finding]:
    """The certificate's policy, where this identity may read it: it has to, for nothing but this check."""
    identity, name = "certificatePolicy", "certificate policy"
    try:
        kept = await context.certificates.policy()
    except UnavailableError:
        return []  # the check of the certificate itself has said so
    if kept is None:
        return []
    if not kept.get("key_props", {}).get("exportable"):
        remedy = "set exportable to true in the policy, and rotate"
        return [Finding(identity, name, Level.BAD, "the key is not exportable", remedy)]
    actions = {action.get("action", {}).get("action_type") for action in kept.get("lifetime_actions", ())}
    if "AutoRenew" not in actions:
        remedy = "add the lifetime action AutoRenew to it"
        return [Finding(identity, name, Level.ATTENTION, "Key Vault does not renew it by itself", remedy)]
    return [Finding(identity, name, Level.WELL, "exportable, renewed by Key Vault")]


async def handshakes(context: CommandContext) -> list[Finding]:
    """What Graph does before it creates a subscription, at each URL that it calls."""
    settings = context.settings
    urls = dict.fromkeys((settings.notification_url, settings.lifecycle_notification_url))
    return [await asyncio.to_thread(_handshake, url) for url in urls]


def _handshake(url: str) -> Finding:
    parts = urlsplit(url)
    # The query may hold a function key, and what stands before "@" a password.
    identity, name = "handshake", f"handshake, {parts.netloc.rpartition('@')[2]}{parts.path}"
    asked = f"{url}{'&' if parts.query else '?'}{urlencode({'validationToken': _VALIDATION})}"
    started = time.monotonic()
    try:
        response = requests.post(asked, timeout=_HANDSHAKE_SECONDS, allow_redirects=False)
    except requests.Timeout:
        told = f"no answer within {_HANDSHAKE_SECONDS:.0f} s"
        return Finding(identity, name, Level.BAD, told, "keep an instance always ready; see the logs")
    except requests.RequestException as error:
        remedy = "see that the app runs, that NOTIFICATION_URL is right, and that Graph may reach it"
        return Finding(identity, name, Level.BAD, f"cannot be reached: {type(error).__name__}", remedy)
    seconds = time.monotonic() - started
    if response.status_code != requests.codes.ok:
        remedy = "see that NOTIFICATION_URL is the app's own URL"
        return Finding(identity, name, Level.BAD, f"answered {response.status_code}", remedy)
    is_text = response.headers.get("Content-Type", "").startswith("text/plain")
    if response.content != _VALIDATION.encode() or not is_text:
        remedy = "see that NOTIFICATION_URL is the app's and nothing rewrites it"
        return Finding(identity, name, Level.BAD, "does not echo the token", remedy)
    if seconds > _SLOW_SECONDS:
        remedy = "keep an instance always ready: Graph waits for 10 s"
        return Finding(identity, name, Level.ATTENTION, f"took {seconds:.1f} s", remedy)
    return Finding(identity, name, Level.WELL, f"{seconds * 1000:.0f} ms")


async def leftovers(context: CommandContext) -> list[Finding]:
    """Queues that get no events any more, because `CONSUMERS` has changed: nothing deletes what lies there."""
    left = context.settings.consumers.leftovers(await context.queues.names())
    counts = await asyncio.gather(*map(context.queues.count, left))
    return [_leftover(queue, count) for queue, count in zip(left, counts, strict=True) if count or not _is_made(queue)]


def _is_made(queue: str) -> bool:
    """Whether every deployment makes a queue, whoever reads it."""
    return queue.removesuffix(POISON_SUFFIX) in EVENT_QUEUES


def _leftover(queue: str, count: int) -> Finding:
    what = f"{count} messages are left, with personal data that never expires" if count else "it is empty"
    command = f"message clear --queue-name {queue}" if _is_made(queue) else f"queue delete --name {queue}"
    remedy = f"once nobody needs it: az storage {command} --auth-mode login --account-name (the account's name)"
    return Finding("leftoverQueues", f"queue {queue}", Level.ATTENTION, f"gets no events any more; {what}", remedy)


async def ingestion(context: CommandContext) -> list[Finding]:
    """What telemetry costs, where the deployment says where it goes."""
    identity = name = "telemetry"
    logs = context.logs
    if logs is None:
        return []
    try:
        tables = await logs.billed()
    except UnavailableError as error:
        remedy = (
            "grant whoever runs this the role Log Analytics Reader on the workspace"
            if error.reason == "log-analytics-403"
            else "look at the workbook's Records and megabytes instead"
        )
        return [Finding(identity, name, Level.ATTENTION, f"{error} ({error.reason})", remedy)]
    total = sum(tables.values())
    if total <= _MEGABYTES_A_DAY:
        return [Finding(identity, name, Level.WELL, f"{total:.0f} MB in the last day")]
    most = ", ".join(f"{table} {megabytes:.0f} MB" for table, megabytes in list(tables.items())[:3])
    remedy = (
        "the workbook's Records and megabytes of logs and metrics says who sends it; docs/telemetry.md, what is usual"
    )
    return [Finding(identity, name, Level.ATTENTION, f"{total:.0f} MB in the last day ({most})", remedy)]
