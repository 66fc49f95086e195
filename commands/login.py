"""`manage.py login`: somebody signs in, because Graph gives presence to people alone."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.terminal import Json, console, perform, print_json

if TYPE_CHECKING:
    from commands.context import CommandContext
    from shared.graph.sign_in import SignInPrompt

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

Tenant = Annotated[str | None, typer.Option(help="Which of GRAPH_TENANT_IDS; not needed where there is only that.")]


def login(tenant: Tenant = None, as_json: Json = False) -> None:
    """Sign in for presence. It is by device code, and Key Vault keeps it."""
    import asyncio
    from datetime import UTC, datetime

    from rich.text import Text

    from shared.graph.sign_in import PERMISSION
    from shared.values.times import span

    def prompt(wanted: "SignInPrompt") -> None:
        told = Text.assemble("Open ", (wanted.url, "bold"), " and enter the code ", (wanted.code, "bold"))
        told.append(
            f" (good for {span(wanted.expires - datetime.now(UTC))}).\n"
            f"Sign in as somebody who may read the presence of the users in question; {PERMISSION} is asked for."
        )
        console(stderr=True).print(told, soft_wrap=True)

    async def work(context: "CommandContext") -> tuple[str, str]:
        tenant_id = _choose(tenant, context.settings.tenant_ids)
        return tenant_id, await asyncio.to_thread(context.sign_ins.user(tenant_id).sign_in, prompt)

    tenant_id, user_id = perform(work, as_json=as_json)
    if as_json:
        print_json({"tenantId": tenant_id, "userId": user_id})
        return
    console().print(f"Signed in to tenant {tenant_id} as user {user_id}. Key Vault keeps the sign-in.")
    console().print("The next renewal run subscribes; python manage.py subscriptions apply does so now.")


def _choose(tenant: str | None, served: frozenset[str]) -> str:
    if tenant is None and len(served) == 1:
        return next(iter(served))
    if tenant is None or tenant.lower() not in served:
        raise typer.BadParameter(f"say which tenant: --tenant with one of {', '.join(sorted(served))}")
    return tenant.lower()
