"""Switchboard's command line, for operators.

Settings come from the environment, else from `Values` of the file that SWITCHBOARD_SETTINGS names, local.settings.json
without a name. Every command takes `--json`.
Exit codes: 0 well, 1 problems, 2 usage.
"""

from commands import call_records, doctor, events, login, quarantine, selftest, subscriptions
from commands.plain_text import print_anywhere
from commands.terminal import group

app = group("Look after Switchboard: its subscriptions, its sign-in, its health.")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(events.app, name="events")
app.add_typer(call_records.app, name="call-records")
app.command()(login.login)
app.command()(doctor.doctor)
app.command()(selftest.selftest)

if __name__ == "__main__":
    print_anywhere()
    app()
