"""`python -m dev.simulator`: run the simulator until interrupted."""

import signal
from typing import Annotated

import typer

from dev.simulator.server import DEFAULT_APP_ID, DEFAULT_CERTIFICATE, DEFAULT_TENANT, Simulator


def main(
    port: Annotated[int, typer.Option(help="First of five consecutive ports; 0 for any free ones.")] = 0,
    tenant: Annotated[list[str] | None, typer.Option(help="A tenant id; may be given several times.")] = None,
    app_id: Annotated[str, typer.Option(help="The application's id.")] = DEFAULT_APP_ID,
    certificate: Annotated[str, typer.Option(help="Name of the certificate in Key Vault.")] = DEFAULT_CERTIFICATE,
) -> None:
    """Play Microsoft Graph, Entra ID, managed identity and Key Vault on loopback."""
    stop = {signal.SIGINT, signal.SIGTERM}
    # Blocked before any thread starts, so that every thread inherits it and only sigwait sees them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with Simulator.start(
        tenants=tenant or [DEFAULT_TENANT], app_id=app_id, port=port, certificate_name=certificate
    ) as simulator:
        for name, value in simulator.environment().items():
            typer.echo(f"{name}={value}")
        typer.echo(f"# control: {simulator.control_url}/_control/state")
        signal.sigwait(stop)


if __name__ == "__main__":
    typer.run(main)
