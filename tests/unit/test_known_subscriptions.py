"""What is kept of the subscriptions that exist."""

from shared.services.known_subscriptions import KnownSubscriptions

TENANT, OTHER = "f69f5191-20ae-4093-8dae-3ec09edeb253", "909c6581-5130-43e9-88f3-fcb3582cde37"


class Blobs:
    def __init__(self) -> None:
        self.held: dict[tuple[str, str], bytes] = {}

    async def put(self, container: str, name: str, data: bytes) -> str:
        self.held[container, name] = data
        return name

    async def get(self, container: str, name: str) -> bytes | None:
        return self.held.get((container, name))


async def test_each_tenant_has_its_own() -> None:
    blobs = Blobs()
    await KnownSubscriptions(blobs).save(TENANT, frozenset({"a", "b"}))
    await KnownSubscriptions(blobs).save(OTHER, frozenset({"c"}))
    known = KnownSubscriptions(blobs)
    assert await known.load(TENANT) == {"a", "b"}
    assert await known.load(OTHER) == {"c"}
    await known.save(TENANT, frozenset())
    assert (await known.load(TENANT), await known.load(OTHER)) == (frozenset(), {"c"})


async def test_before_the_first_run_there_are_none() -> None:
    assert await KnownSubscriptions(Blobs()).load(TENANT) == frozenset()
