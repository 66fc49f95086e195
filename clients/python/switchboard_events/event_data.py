"""As `event_types`: the app's own module, whose place that module itself takes in the wheel."""

from shared.values.events.event_data import *  # noqa: F403
