"""RSA keys of a simulation, to which it does not matter whose they are: to make one takes a tenth of a second."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from dev.simulator.crypto import KeyCertificate
from dev.simulator.tokens import SigningKey
from shared.notifications.tokens import PublishedKey, PublishedKeys

SIGNING_KEY: Final = SigningKey.generate()
PAIR: Final = KeyCertificate.generate()


def published(key: SigningKey = SIGNING_KEY) -> PublishedKeys:
    """A key as Entra ID publishes it."""
    return {key.kid: [PublishedKey(key.private_key.public_key(), key.issuer)]}


@dataclass
class SigningKeysModel:
    """What `shared.notifications.signing_keys.SigningKeys` offers, and how often it was asked."""

    known: PublishedKeys = field(default_factory=published)
    asked: int = 0

    async def get(self, _wanted: Collection[str]) -> tuple[PublishedKeys, None]:
        self.asked += 1
        return self.known, None
