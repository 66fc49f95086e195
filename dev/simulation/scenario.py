"""What a simulated year is about: the tenants, what they desire, Graph and the app, and what may be known of it."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Final

from dev.simulation.coverage import SKEW, Disturbance, Ledger, WatchedStore
from dev.simulation.in_process import Identities, InProcessClient, Latency, RememberingEntra, SignIn, Troubles
from dev.simulation.keys import PAIR
from dev.simulation.known import Known
from dev.simulation.virtual_time import START, LoopClock
from dev.simulator.delivery import Courier
from dev.simulator.directory import Directory
from dev.simulator.faults import Faults
from dev.simulator.graph_api import GraphApi
from dev.simulator.rules import RULES
from dev.simulator.subscriptions import Subscription
from shared.subscriptions.desired import Desired, DesiredState, Group
from shared.subscriptions.lifecycle import Lifecycle
from shared.subscriptions.run import Renewal
from shared.subscriptions.state import Memory
from shared.values import resources
from shared.values.endpoint import EncryptionCertificate, Endpoint
from shared.values.errors import UnavailableError
from shared.values.resource_row import ResourceKind

TENANT: Final = "f69f5191-20ae-4093-8dae-3ec09edeb253"
NEIGHBOURS: Final = ("0a1b8c9d-20ae-4093-8dae-3ec09edeb253", "fb1b8c9d-20ae-4093-8dae-3ec09edeb253")
APP: Final = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
OTHER_APP: Final = "11111111-6a1e-4d0e-9a53-0d4f7a3c9b11"
NOTIFICATION_URL: Final = "https://calls.example.com/api/notifications?code=key"
LIFECYCLE_URL: Final = "https://calls.example.com/api/lifecycleNotifications"
GROUP: Final = str(uuid.UUID(int=900))
GROUPS: Final = dict(zip(NEIGHBOURS, (str(uuid.UUID(int=901)), str(uuid.UUID(int=902))), strict=True))


def user(number: int) -> str:
    return str(uuid.UUID(int=number))


def _want(kind: ResourceKind, resource: str, *, rich: bool = True) -> Desired:
    return Desired(TENANT, kind, resource, rich)


def _of_neighbour(tenant_id: str) -> tuple[Desired, ...]:
    return (
        Desired(tenant_id, resources.CALL_RECORDS, "communications/callRecords", rich=False),
        Desired(tenant_id, resources.EMERGENCY_CALL_EVENTS, resources.emergency_path("Headquarters"), rich=True),
    )


_MEETING: Final = "https://teams.microsoft.com/l/meetup-join/19%3ameeting_{}%40thread.v2/0"
DESIRED: Final = (
    _want(resources.CALL_RECORDS, "communications/callRecords", rich=False),
    _want(resources.CALL_EVENTS, resources.call_events_path(user(1))),
    _want(resources.MEETING_CALL_EVENTS, resources.meeting_call_events_path(_MEETING.format(1))),
    _want(resources.MEETING_CALL_EVENTS, resources.meeting_call_events_path(_MEETING.format(2))),
    _want(resources.ONLINE_MEETING, resources.online_meeting_path(_MEETING.format(3))),
    _want(resources.EMERGENCY_CALL_EVENTS, resources.emergency_path("Headquarters")),
    _want(resources.PRESENCE, resources.presence_path((user(1), user(2)))),
    _want(resources.TRANSCRIPTS, "communications/onlineMeetings/getAllTranscripts"),
    _want(resources.RECORDINGS, "communications/adhocCalls/getAllRecordings"),
)


@dataclass(slots=True)
class Vault:
    """Key Vault's certificate, by version."""

    version: int = 1
    outages: int = 0

    @property
    def certificate_id(self) -> str:
        return f"switchboard/{self.version:032x}"

    async def current(self) -> EncryptionCertificate:
        await asyncio.sleep(0.02)
        if self.outages:
            raise UnavailableError("Key Vault", reason="key-vault-503")
        return EncryptionCertificate(self.certificate_id, PAIR.der_base64)


@dataclass(slots=True)
class Source:
    """The desired state; its groups are read from Graph."""

    neighbours: tuple[str, ...]
    taken_off: set[str] = field(default_factory=set)  # resources that the file does not ask for now
    cut_off: bool = False  # only its first half can be read

    async def load(self) -> DesiredState:
        groups = [Group(TENANT, GROUP), *(Group(tenant_id, GROUPS[tenant_id]) for tenant_id in self.neighbours)]
        asked_for = [want for want in self.subscriptions if want.resource not in self.taken_off]
        return DesiredState(tuple(asked_for[: len(asked_for) // 2] if self.cut_off else asked_for), tuple(groups))

    @property
    def subscriptions(self) -> tuple[Desired, ...]:
        """What the file asks for, but for what is taken off it."""
        return (*DESIRED, *(want for tenant_id in self.neighbours for want in _of_neighbour(tenant_id)))


@dataclass(slots=True)
class Confirmed:
    """What the operator has confirmed to go, each with when; it lies where what is remembered does."""

    known: Known
    ids: dict[str, datetime] = field(default_factory=dict)

    async def load(self) -> Mapping[str, datetime]:
        if self.known.error is not None:
            raise self.known.error
        return self.ids


@dataclass(slots=True)
class AppProcess:
    """One instance of the app, on a machine with a clock of its own."""

    skew: timedelta
    identities: Identities
    renewal: Renewal
    lifecycle: Lifecycle


class Scenario:
    """Graph with its tenants, and the app that renews their subscriptions; made in the event loop whose time it is."""

    def __init__(self, seed: int, days: float, tenants: int | None) -> None:
        """Draw what is drawn, and start the app.

        Args:
            seed: draws everything that is drawn.
            days: how long it goes on.
            tenants: how many, one to three; if not given, that is drawn, too.
        """
        self.random = Random(seed)
        self.days = days
        self.clock = LoopClock()
        self.ledger = Ledger(self.clock, self._is_beyond_knowing, self._is_unrecognisable)
        self.faults = Faults(self.clock)
        others = self.random.choice((0, 0, 1, 2)) if tenants is None else tenants - 1
        self.source = Source(NEIGHBOURS[:others])
        self.entra = RememberingEntra(self.clock, self.tenant_ids, APP)
        self.entra.delegated_token_lifetime = timedelta(hours=20)
        self.api = GraphApi(self.clock, self.entra, Courier(self.clock), self.faults)
        self.store = self.api.store = WatchedStore(self.clock, self.ledger)
        self.api.settings.handshake = False
        self.api.throttle.enabled = True
        self.api.settings.page_size = self.random.choice((5, 100, 100, 100))
        self.api.settings.empty_page_first = self.random.random() < 0.3
        self.api.settings.separate_versions = self.random.random() < 0.5
        self.directory = directory = Directory(self.clock)
        directory.mount(self.api)
        self.members = [user(10), user(11), user(12)]
        directory.groups[GROUP] = self.members
        for place, tenant_id in enumerate(self.source.neighbours):
            directory.groups[GROUPS[tenant_id]] = [user(20 + place)]
        self.troubles = Troubles()
        self.latency = Latency(seed)
        self.vault = Vault()
        self.known = Known()
        self.confirmed = Confirmed(self.known)
        self.client_states: tuple[str, ...] = ("state-1",)
        self.blind_lists = 0
        self.oddities: Counter[str] = Counter()
        self.bystanders: list[Subscription] = []
        self.sign_in = SignIn.by_device_code(self.entra, TENANT)
        self.process = self.start()
        self.ledger.accept(self.client_states)
        self.ledger.rotate(self.vault.certificate_id)
        for want in self.source.subscriptions:
            self.ledger.want(want.kind.key, want.resource, want.tenant_id)
        for tenant_id, group in {TENANT: GROUP, **GROUPS}.items():
            for member in directory.groups.get(group, ()):
                self.ledger.want("callEvents", resources.call_events_path(member), tenant_id)
        self._add_bystanders()

    @property
    def tenant_ids(self) -> tuple[str, ...]:
        return (TENANT, *self.source.neighbours)

    @property
    def is_told_falsely(self) -> bool:
        """Whether Graph's answers are other than what there is."""
        return self.blind_lists > 0 or self.oddities.total() > 0

    def memory(self, tenant_id: str) -> Memory:
        return self.known.memories.get(tenant_id, Memory())

    def start(self, known: Known | None = None) -> AppProcess:
        """A new process: it has learned nothing, holds no token, and its clock is wrong in a way of its own."""
        skew = SKEW * self.random.choice((-1, 0, 0, 1)) * self.random.random()
        clock = LoopClock(skew)
        identities = Identities.of_a_new_process(self.entra, self.tenant_ids, APP, self.sign_in)
        renewal = Renewal(
            graph=InProcessClient(self.api, identities, clock, self.latency, self.troubles),
            certificates=self.vault,
            desired=self.source,
            known=self.known if known is None else known,
            endpoint=Endpoint(NOTIFICATION_URL, LIFECYCLE_URL, self.client_states),
            tenant_ids=self.tenant_ids,
            clock=clock,
            confirmations=self.confirmed,
        )
        return AppProcess(skew, identities, renewal, Lifecycle(renewal))

    def disturb(self, disturbance: Disturbance, seconds: float, tenant_id: str | None = None) -> None:
        """Tell the ledger what stands in the way from now on."""
        now = self.clock.now()
        self.ledger.disturb(disturbance, now, now + timedelta(seconds=seconds), tenant_id)

    def any_of_ours(self, draw: float) -> Subscription | None:
        """One of the app's subscriptions, by a number from 0 to 1; None where there is none."""
        ours = [subscription for subscription in self.store.all() if subscription not in self.bystanders]
        return ours[int(draw * len(ours))] if ours else None

    def touched_bystanders(self) -> list[str]:
        """What is no longer as its owner made it."""
        held = self.store.all()
        return [
            f"a bystander was touched: {bystander.resource}"
            for bystander in self.bystanders
            if not any(bystander is other for other in held)
        ]

    def _add_bystanders(self) -> None:
        """Subscriptions of the same application for another address, and of another application."""
        for app, url in ((APP, "https://elsewhere.example.com/api/notifications"), (OTHER_APP, NOTIFICATION_URL)):
            bystander = Subscription(
                id=str(uuid.uuid4()),
                rule=RULES[0],
                version="v1.0",
                resource="communications/callRecords?$filter=participants/any(p:p/id eq 'x')",
                change_type="created",
                notification_url=url,
                lifecycle_notification_url=url,
                client_state="theirs",
                expires=START + timedelta(days=self.days + 1),
                app_id=app,
                tenant_id=TENANT,
                user_id=None,
                creator_id=app,
                latest_tls_version="v1_2",
                notification_url_app_id=None,
            )
            self.store.add(bystander, quota=None, refuse_duplicates=False)
            self.bystanders.append(bystander)

    def _is_beyond_knowing(self, subscription_id: str, lists_unread: bool) -> bool:
        """Made by a request whose answer was lost, or forgotten by a new process, while no list shows it."""
        forgotten = self.known.error is not None or self._is_forgotten(subscription_id)
        return forgotten and (lists_unread or self.blind_lists > 0 or self.oddities["patchy_lists"] > 0)

    def _is_unrecognisable(self, subscription_id: str) -> bool:
        """Not known by what was sent, while lists leave out the query of its notification URL."""
        kept = [memory.known.get(subscription_id) for memory in self.known.memories.values()]
        return self.oddities["odd_echoes"] > 0 and not any(entry is not None and entry.sent for entry in kept)

    def _is_forgotten(self, subscription_id: str) -> bool:
        return not any(subscription_id in ids for ids in self.known.ids.values())
