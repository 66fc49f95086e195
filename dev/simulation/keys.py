"""RSA keys of a simulation, to which it does not matter whose they are: to make one takes a tenth of a second."""

from typing import Final

from dev.simulator.crypto import KeyCertificate
from dev.simulator.tokens import SigningKey

SIGNING_KEY: Final = SigningKey.generate()
PAIR: Final = KeyCertificate.generate()
