"""`manage.py subscriptions`: the subscriptions in Graph, beside the desired ones."""

from commands.terminal import group

app = group("Graph's subscriptions, beside the desired ones.")


@app.callback()
def subscriptions() -> None:
    """Graph's subscriptions, beside the desired ones."""
