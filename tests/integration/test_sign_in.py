"""Somebody signs in for presence, and the app goes on by itself until that is no longer good."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from dev.simulation.known import Known
from dev.simulator import Fault, Simulator
from shared.clock import SystemClock
from shared.graph.client import GraphClient
from shared.graph.identity import GraphCredentials
from shared.graph.sign_in import SignInPrompt, SignIns
from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import Desired, DesiredState
from shared.subscriptions.run import Renewal
from shared.subscriptions.run_report import RenewalReport
from shared.values import resources
from shared.values.endpoint import EncryptionCertificate, Endpoint
from shared.values.errors import UnavailableError
from shared.values.graph_errors import CredentialError, SignInRequiredError
from tests.integration.conftest import be_patient
from tests.unit.model_graph import Source, user

DAY = timedelta(days=1)
CERTIFICATE = EncryptionCertificate("switchboard/1", "")


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator.start() as sim:
        yield sim


@pytest.fixture
def sim(running: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """The simulator, where nobody is signed in."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    be_patient(monkeypatch)
    running.faults.clear()
    running.vault.delete(secret_of(running))
    running.entra.delegated_token_lifetime = timedelta(minutes=75)
    for known in running.graph.subscriptions:
        running.graph.remove(known.id)
    running.graph.settings.handshake = False
    return running


@pytest.fixture
def process(sim: Simulator) -> Iterator[Callable[..., SignIns]]:
    """Makes what a new process has."""
    made = []

    def make(app_id: str | None = sim.app_id) -> SignIns:
        made.append(
            SignIns(vault_url=sim.vault_url, login_endpoint=sim.login_url, graph_endpoint=sim.graph_url, app_id=app_id)
        )
        return made[-1]

    yield make
    for sign_ins in made:
        sign_ins.close()


def secret_of(sim: Simulator) -> str:
    return f"presence-sign-in-{sim.tenants[0]}"


def sign_in(sign_ins: SignIns, sim: Simulator) -> str:
    return sign_ins.user(sim.tenants[0]).sign_in(lambda prompt: sim.entra.approve(prompt.code))


def bearer(sign_ins: SignIns, sim: Simulator) -> str:
    return sign_ins.user(sim.tenants[0]).get_token(f"{sim.graph_url}/.default").token


def scopes(token: str, sim: Simulator) -> frozenset[str]:
    caller = sim.entra.verify(f"Bearer {token}", (sim.graph_url,))
    assert caller is not None
    return caller.scopes


class TestSigningIn:
    def test_is_wanted_where_nobody_has(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        with pytest.raises(SignInRequiredError, match=r"manage\.py login") as caught:
            bearer(process(), sim)
        assert caught.value.reason == "sign-in-required"

    def test_needs_an_application(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        with pytest.raises(SignInRequiredError):
            process(None).user(sim.tenants[0])

    def test_is_for_presence_and_good_in_every_process(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        prompts: list[SignInPrompt] = []

        def prompt(wanted: SignInPrompt) -> None:
            prompts.append(wanted)
            sim.entra.approve(wanted.code)

        user_id = process().user(sim.tenants[0]).sign_in(prompt)

        assert scopes(bearer(process(), sim), sim) == {"Presence.Read.All"}
        assert user_id == "5b1d0f4e-93c6-4d44-8c57-2f5f6c8b6d10"
        assert prompts[0].url.endswith("/devicelogin")
        assert timedelta(minutes=14) < prompts[0].expires - sim.clock.now() <= timedelta(minutes=15)

    def test_leaves_no_access_token_in_the_vault(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        sign_in(process(), sim)

        (kept,) = sim.vault.versions(secret_of(sim))
        assert set(json.loads(kept.value)) == {"RefreshToken", "Account", "AppMetadata"}

    def test_that_is_declined_says_why(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        with pytest.raises(SignInRequiredError, match="declined"):
            process().user(sim.tenants[0]).sign_in(lambda prompt: sim.entra.deny(prompt.code))
        assert not sim.vault.versions(secret_of(sim))

    def test_that_key_vault_does_not_keep_has_failed(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        sim.faults.add(Fault("vault", "PUT", status=403), times=None)
        with pytest.raises(UnavailableError) as caught:
            sign_in(process(), sim)
        assert caught.value.reason == "key-vault-403"


class TestRefreshing:
    @pytest.fixture(autouse=True)
    def short_lived(self, sim: Simulator) -> None:
        sim.entra.delegated_token_lifetime = timedelta(seconds=30)  # MSAL refreshes what has less than five minutes

    def test_happens_by_itself(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        sign_in(process(), sim)
        later = process()
        assert bearer(later, sim) != bearer(later, sim)

    def test_writes_the_newest_refresh_token_back_once_a_day(
        self, process: Callable[..., SignIns], sim: Simulator
    ) -> None:
        sign_in(process(), sim)
        bearer(process(), sim)
        (kept,) = sim.vault.versions(secret_of(sim))

        sim.vault.update(secret_of(sim), kept.version, replace(kept, created=kept.created - 2 * DAY))
        later = process()
        bearer(later, sim)
        bearer(later, sim)

        _, newest = sim.vault.versions(secret_of(sim))
        assert newest.value != kept.value
        assert bearer(process(), sim)

    def test_does_not_depend_on_writing_back(self, process: Callable[..., SignIns], sim: Simulator) -> None:
        sign_in(process(), sim)
        (kept,) = sim.vault.versions(secret_of(sim))
        sim.vault.update(secret_of(sim), kept.version, replace(kept, created=kept.created - 2 * DAY))
        sim.faults.add(Fault("vault", "PUT", status=403), times=None)
        assert bearer(process(), sim)

    def test_ends_when_the_sign_in_has_expired_and_begins_with_the_next(
        self, process: Callable[..., SignIns], sim: Simulator
    ) -> None:
        app = process()
        sign_in(app, sim)
        sim.entra.revoke_refresh_tokens()
        with pytest.raises(SignInRequiredError):
            bearer(app, sim)

        sign_in(process(), sim)
        assert bearer(app, sim)

    def test_that_entra_id_does_not_answer_is_no_reason_to_sign_in(
        self, process: Callable[..., SignIns], sim: Simulator
    ) -> None:
        sign_in(process(), sim)
        sim.faults.add(Fault("login", status=503), times=None)
        with pytest.raises(CredentialError) as caught:
            bearer(process(), sim)
        assert caught.value.reason == "credential"

    def test_that_key_vault_does_not_answer_is_no_reason_to_sign_in(
        self, process: Callable[..., SignIns], sim: Simulator
    ) -> None:
        sign_in(process(), sim)
        sim.faults.add(Fault("vault", status=403), times=None)
        with pytest.raises(UnavailableError) as caught:
            bearer(process(), sim)
        assert caught.value.reason == "key-vault-403"


class Certificate:
    async def current(self) -> EncryptionCertificate:
        return CERTIFICATE


class TestRenewal:
    @pytest.fixture
    def renew(self, sim: Simulator, process: Callable[..., SignIns]) -> Iterator[Callable[[SignIns], Renewal]]:
        """Makes a renewal of call records and of one user's presence."""
        clients = []
        tenant = sim.tenants[0]
        desired = (
            Desired(tenant, resources.CALL_RECORDS, "communications/callRecords", rich=False),
            Desired(tenant, resources.PRESENCE, resources.presence_path((user(1),)), rich=False),
        )
        url = "https://switchboard.example/api/notifications"

        def make(sign_ins: SignIns) -> Renewal:
            credentials = GraphCredentials(sign_ins, federated_app_id=None, login_endpoint=sim.login_url)
            clients.append((GraphClient(sim.graph_url, credentials, SystemClock()), credentials))
            return Renewal(
                graph=clients[-1][0],
                certificates=Certificate(),
                desired=Source(DesiredState(desired, ())),
                known=Known(),
                endpoint=Endpoint(url, url, ("secret",)),
                tenant_ids=(tenant,),
                clock=SystemClock(),
            )

        yield make
        for client, credentials in clients:
            client.close()
            credentials.close()

    async def test_subscribes_once_somebody_has_signed_in_and_does_the_rest_before(
        self, renew: Callable[[SignIns], Renewal], process: Callable[..., SignIns], sim: Simulator
    ) -> None:
        renewal = renew(process())
        report = await renewal.run()
        assert [(failure.kind, failure.reason) for failure in report.failures] == [("presence", "sign-in-required")]
        assert report.live == 1

        sign_in(process(), sim)
        report = await renewal.run()
        assert not report.failures
        assert report.outcomes[Outcome.CREATED] == 1

    async def test_knows_what_was_subscribed_to_through_another_application(
        self, renew: Callable[[SignIns], Renewal], process: Callable[..., SignIns], sim: Simulator
    ) -> None:
        """A managed identity has no application that people could sign in to."""
        app_id = str(uuid4())
        sign_in(process(app_id), sim)
        await renew(process(app_id)).run()
        assert {known.app_id for known in sim.graph.subscriptions} == {sim.app_id, app_id}

        report = await renew(process(app_id)).run()
        assert dict(report.outcomes) == {Outcome.UNCHANGED: 2}
        assert not report.failures

    @pytest.mark.parametrize("own_application", [True, False])
    async def test_prolongs_presence_when_graph_asks_for_it(
        self,
        own_application: bool,
        renew: Callable[[SignIns], Renewal],
        process: Callable[..., SignIns],
        sim: Simulator,
    ) -> None:
        """Graph refuses the application's own token with 403 or 404, by whether it has an application of its own."""
        app_id = str(uuid4()) if own_application else sim.app_id
        sign_in(process(app_id), sim)
        renewal = renew(process(app_id))
        await renewal.run()
        (presence,) = (known for known in sim.graph.subscriptions if known.user_id is not None)

        assert await renewal.reauthorize(sim.tenants[0], presence.id) is Outcome.RENEWED

    async def test_of_the_rest_goes_on_when_the_sign_in_has_expired(
        self, renew: Callable[[SignIns], Renewal], process: Callable[..., SignIns], sim: Simulator
    ) -> None:
        sim.entra.delegated_token_lifetime = timedelta(seconds=30)
        sign_in(process(), sim)
        await renew(process()).run()
        sim.entra.revoke_refresh_tokens()
        until = ends(sim, "callRecords")
        for known in sim.graph.subscriptions:
            half(sim, known.id)

        report: RenewalReport = await renew(process()).run()

        assert [(failure.kind, failure.reason) for failure in report.failures] == [("presence", "sign-in-required")]
        assert ends(sim, "callRecords") > until - timedelta(minutes=1)


def ends(sim: Simulator, resource: str) -> datetime:
    (found,) = (known.expires for known in sim.graph.subscriptions if resource in known.resource)
    return found


def half(sim: Simulator, subscription_id: str) -> None:
    """Let more than half of a subscription's life be over."""
    sim.graph._api.store.change(
        subscription_id, lambda known: replace(known, expires=known.expires - 0.6 * (known.expires - sim.clock.now()))
    )
