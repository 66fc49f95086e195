"""Microsoft Graph, Entra ID, managed identity and Key Vault on loopback, over their real wire protocols.

It shares no code with the app, so that it can bear witness to what the app does.
"""

from dev.simulator.clock import Clock, ManualClock, SystemClock
from dev.simulator.faults import Fault
from dev.simulator.payloads import Kind, Options, Payload, Spelling, build
from dev.simulator.server import Simulator

__all__ = [
    "Clock",
    "Fault",
    "Kind",
    "ManualClock",
    "Options",
    "Payload",
    "Simulator",
    "Spelling",
    "SystemClock",
    "build",
]
