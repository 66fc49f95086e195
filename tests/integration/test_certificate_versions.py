"""Versions of the certificate that somebody has made up: how often Key Vault is asked for them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from dev.simulator import Fault
from shared.key_vault import KeyVaultCertificates
from shared.values.errors import UnavailableError, UnknownCertificateError
from tests.integration.app import App


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def certificates(app: App) -> AsyncIterator[tuple[KeyVaultCertificates, Clock]]:
    clock = Clock()
    found = KeyVaultCertificates(app.sim.vault_url, app.sim.vault.certificate_name, monotonic=clock)
    yield found, clock
    await found.close()


@pytest.fixture
async def forgetful(app: App) -> AsyncIterator[tuple[KeyVaultCertificates, Clock]]:
    """The same, with room for 50 versions."""
    clock = Clock()
    vault = app.sim.vault
    found = KeyVaultCertificates(app.sim.vault_url, vault.certificate_name, monotonic=clock, most_remembered=50)
    yield found, clock
    await found.close()


async def test_what_is_being_read_is_given_up_at_the_end(app: App) -> None:
    found = KeyVaultCertificates(app.sim.vault_url, app.sim.vault.certificate_name)
    app.sim.faults.add(Fault("vault", delay=60), times=1)
    reading = asyncio.create_task(found.private_key(f"switchboard/{app.sim.vault.certificate().version}"))
    while app.sim.faults._planned:  # noqa: ASYNC110 - until the vault has been asked
        await asyncio.sleep(0.01)
    await found.close()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def outcome(certificates: KeyVaultCertificates, version: str) -> str:
    try:
        await certificates.private_key(f"switchboard/{version}")
    except (UnknownCertificateError, UnavailableError) as error:
        return error.reason
    return "a key"


def reads(app: App) -> int:
    return sum(record.path.startswith("/secrets/switchboard/") for record in app.sim.faults.requests)


async def test_made_up_versions_are_few_reads_and_none_again_soon(
    app: App, certificates: tuple[KeyVaultCertificates, Clock]
) -> None:
    found, clock = certificates
    good = app.sim.vault.certificate().version
    assert await outcome(found, good) == "a key"
    app.sim.faults.forget_requests()
    versions = [f"{number:032x}" for number in range(5000)]
    answers = [await outcome(found, version) for version in versions]
    assert set(answers) == {"unknown-certificate", "key-vault-paced"}
    asked = reads(app)
    assert asked <= 60
    clock.now += 59
    assert {await outcome(found, version) for version in versions[:asked]} == {"unknown-certificate"}
    assert reads(app) == asked
    clock.now += 2
    assert await outcome(found, versions[4999]) == "unknown-certificate"
    assert await outcome(found, good) == "a key"
    assert reads(app) == asked + 1


async def test_an_id_in_capitals_is_the_same_one(app: App, certificates: tuple[KeyVaultCertificates, Clock]) -> None:
    found, _ = certificates
    identity = f"switchboard/{app.sim.vault.certificate().version}"
    key = await found.private_key(identity)
    app.sim.faults.forget_requests()
    assert await found.private_key(identity.upper()) is key
    assert reads(app) == 0


async def test_what_failed_for_now_is_asked_for_again(
    app: App, certificates: tuple[KeyVaultCertificates, Clock]
) -> None:
    found, _ = certificates
    good = app.sim.vault.certificate().version
    app.sim.faults.add(Fault("vault", path="/secrets/", status=403), times=1)
    assert await outcome(found, good) == "key-vault-403"
    assert await outcome(found, good) == "a key"


async def test_a_version_that_comes_back_is_found_by_a_process_that_has_missed_it(
    app: App, certificates: tuple[KeyVaultCertificates, Clock]
) -> None:
    found, clock = certificates
    good = app.sim.vault.certificate().version
    app.sim.faults.add(Fault("vault", path="/secrets/", status=404), times=1)
    assert await outcome(found, good) == "unknown-certificate"
    clock.now += 61
    assert await outcome(found, good) == "a key"


async def test_a_vault_that_works_again_gives_the_key_at_once_however_often_it_has_failed(
    app: App, certificates: tuple[KeyVaultCertificates, Clock]
) -> None:
    found, _ = certificates
    good = app.sim.vault.certificate().version
    app.sim.faults.add(Fault("vault", path="/secrets/", status=403), times=70)
    assert {await outcome(found, good) for _ in range(70)} == {"key-vault-403"}
    assert await outcome(found, good) == "a key"


async def test_made_up_versions_push_no_key_out(app: App, forgetful: tuple[KeyVaultCertificates, Clock]) -> None:
    found, clock = forgetful
    good = app.sim.vault.certificate().version
    assert await outcome(found, good) == "a key"
    for number in range(60):
        clock.now += 2
        await outcome(found, f"{number:032x}")
    app.sim.faults.forget_requests()
    assert await outcome(found, good) == "a key"
    assert reads(app) == 0


async def test_only_the_newest_versions_that_do_not_exist_are_remembered(
    app: App, forgetful: tuple[KeyVaultCertificates, Clock]
) -> None:
    found, _ = forgetful
    await found.current()  # the SDK asks a vault once in a process how it wants to be spoken to
    app.sim.faults.forget_requests()
    for number in (*range(55), 54, 0):
        await outcome(found, f"{number:032x}")
    assert reads(app) == 56
