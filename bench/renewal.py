"""Renewal of 10,000 subscriptions over real sockets, against the simulator."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID

import psutil
from azure.core.credentials import AccessToken

from bench.measure import Finding
from dev.fast_forward import FastForwardClient, FastForwardClock
from dev.simulation.known import Known
from dev.simulator import Simulator
from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import DesiredState, Group
from shared.subscriptions.run import Renewal
from shared.subscriptions.run_report import RenewalReport
from shared.values.endpoint import EncryptionCertificate, Endpoint
from shared.values.graph import format_time

_URL: Final = "https://switchboard.example/api/notifications"
_GROUP: Final = "everybody"
_HALF: Final = timedelta(hours=12)
_SAMPLE: Final = 300
_WRITES_A_SECOND: Final = 500 / 20
"""Graph's limit for a tenant ("Microsoft Graph service-specific throttling limits")."""


def renewal(*, quick: bool) -> Iterator[Finding]:
    """All findings about thousands of subscriptions, one by one."""
    count = 1000 if quick else 10_000
    with Simulator.start(clock=(clock := FastForwardClock())) as sim, patch.dict(os.environ, sim.environment()):
        sim.graph.settings.handshake = False  # there is nobody at the address
        sim.directory.group_page = 999  # what is asked for, and Graph's most
        sim.directory.groups[_GROUP] = [str(UUID(int=number)) for number in range(count)]
        yield from asyncio.run(_Bench(sim, clock, count).findings())


class _Client(FastForwardClient):
    async def patch_one(self, tenant_id: str, subscription_id: str, expires: datetime) -> None:
        """What a renewal without batches does."""
        body = {"expirationDateTime": format_time(expires)}
        await self._exchange("PATCH", f"{self._endpoint}/beta/subscriptions/{subscription_id}", tenant_id, False, body)


@dataclass(frozen=True, slots=True)
class _Run:
    report: RenewalReport
    requests: Counter[str]
    virtual: float
    real: float
    cpu: float


class _Bench:
    def __init__(self, sim: Simulator, clock: FastForwardClock, count: int) -> None:
        self._sim, self._clock, self._count = sim, clock, count
        self._tenant = sim.tenants[0]
        self._client = _Client(sim.graph_url, self._credentials, clock)
        certificate = sim.vault.certificate()
        assert certificate.certificate is not None
        self._certificate = EncryptionCertificate(f"calls/{certificate.version}", certificate.certificate.der_base64)
        self._token: AccessToken | None = None
        self._renewal = Renewal(
            graph=self._client,
            certificates=self,
            desired=self,
            known=Known(),
            endpoint=Endpoint(_URL, _URL, ("secret",)),
            tenant_ids=(self._tenant,),
            clock=clock,
        )

    async def findings(self) -> list[Finding]:
        self._sim.graph.throttle.enabled = True
        made = await self._run(Outcome.CREATED)
        idle = await self._run(Outcome.UNCHANGED)
        allowed = self._count / _WRITES_A_SECOND
        found = [
            self._finding("created from a group, throttle on", made, allowed),
            self._finding("listed, with nothing to do, throttle on", idle),
        ]
        self._clock.advance(_HALF)
        found.append(self._finding("renewed, throttle on", await self._run(Outcome.RENEWED), allowed))
        self._sim.graph.throttle.enabled = False
        memory = []
        for _ in range(3):
            self._clock.advance(_HALF)
            run = await self._run(Outcome.RENEWED)
            memory.append(psutil.Process().memory_info().rss / 2**20)
        found.append(self._finding("renewed, throttle off", run))
        found.append(await self._one_at_a_time(run))
        return [
            *found,
            Finding(
                "memory after renewals 1, 2 and 3, simulator included",
                ", ".join(f"{size:.0f}" for size in memory) + " MiB",
            ),
        ]

    async def _one_at_a_time(self, batched: _Run) -> Finding:
        ids = [one.id for one in self._sim.graph.subscriptions[:_SAMPLE]]
        expires = self._clock.now() + timedelta(hours=23)
        started = time.perf_counter()
        for identity in ids:
            await self._client.patch_one(self._tenant, identity, expires)
        each = (time.perf_counter() - started) / len(ids)
        real = each * self._count
        return Finding(
            f"one PATCH after another, from {len(ids)} of them",
            f"{self._count:,} requests, {real:.1f} s of real time ({real / batched.real:.1f} x)",
        )

    async def _run(self, expected: Outcome) -> _Run:
        self._sim.faults.forget_requests()
        virtual, real, cpu = self._clock.now(), time.perf_counter(), time.process_time()
        report = await self._renewal.run()
        if report.outcomes != {expected: self._count}:
            raise RuntimeError(f"expected {expected}: {report.outcomes} {report.failures}")
        requests = Counter(
            request.path.partition("?")[0].rpartition("/")[2]
            for request in self._sim.faults.requests
            if not request.in_batch
        )
        return _Run(
            report,
            requests,
            (self._clock.now() - virtual).total_seconds(),
            time.perf_counter() - real,
            time.process_time() - cpu,
        )

    def _finding(self, name: str, run: _Run, allowed: float | None = None) -> Finding:
        batches, lists, members = (run.requests[name] for name in ("$batch", "subscriptions", "transitiveMembers"))
        parts = [f"{batches} batches, {lists} pages of lists, {members} of members"]
        if allowed is not None:
            parts.append(f"{run.virtual:.0f} s where Graph allows {allowed:.0f} s ({run.virtual / allowed:.2f} x)")
        parts.append(f"{run.real:.1f} s of real time, {run.cpu:.1f} s of CPU, simulator included")
        return Finding(f"{self._count:,} {name}", "; ".join(parts))

    # What the renewal asks for

    async def current(self) -> EncryptionCertificate:
        return self._certificate

    async def load(self) -> DesiredState:
        return DesiredState((), (Group(self._tenant, _GROUP),))

    def _credentials(self, tenant_id: str, *, delegated: bool) -> "_Bench":
        del tenant_id, delegated  # one identity for both
        return self

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """As azure-identity has it: kept until shortly before its end."""
        if self._token is None or self._token.expires_on - 300 < self._clock.now().timestamp():
            token, expires = self._sim.entra.app_token(
                audience=self._sim.graph_url, client_id=self._sim.app_id, tenant_id=self._tenant
            )
            self._token = AccessToken(token, int(expires.timestamp()))
        return self._token
