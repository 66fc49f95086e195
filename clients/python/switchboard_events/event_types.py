"""The app's own module of the types. The wheel holds that module in place of this one."""

from shared.values.events.event_types import *  # noqa: F403
