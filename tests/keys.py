"""RSA keys for tests to which it does not matter whose they are: those of the simulations, and another."""

from typing import Final

from dev.simulation.keys import PAIR, SIGNING_KEY
from dev.simulator.crypto import KeyCertificate

__all__ = ["OTHER_PAIR", "PAIR", "SIGNING_KEY"]

OTHER_PAIR: Final = KeyCertificate.generate()
