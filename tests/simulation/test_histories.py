"""Some hundred histories; `python3 run.py bench --histories` tries thousands."""

import pytest

from dev.simulation.histories import lived, try_some
from dev.simulation.history_scenarios import Fault, Mode, scenarios
from shared.notifications import raw_messages
from shared.notifications.poison import PoisonDrain
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER, RawMessages

SEED = 1


def test_without_a_fault_all_is_delivered_once() -> None:
    for scenario in scenarios():
        assert lived(scenario).violations == []


def test_no_fault_or_two_loses_anything_or_gives_it_two_ids() -> None:
    tried = try_some(165, SEED)
    assert tried.violations == [], f"python -m dev.simulation.histories 165 {SEED}"


def test_a_ticket_whose_answer_was_lost_is_noticed_where_its_blob_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def settle(messages: RawMessages, claim: str) -> None:
        await messages.blobs.delete(CLAIM_CHECKS_CONTAINER, claim)

    monkeypatch.setattr(RawMessages, "_settle", settle)
    scenario = next(one for one in scenarios() if "put blob raw-claims" in lived(one).calls)
    put = next(at for at, call in enumerate(lived(scenario).calls, 1) if call == "put raw-notifications")
    assert "a claim check is missing" in lived(scenario, Fault(put, Mode.TWICE)).violations


def test_deleting_before_putting_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    take_away = PoisonDrain._take_away

    async def delete_first(drain: PoisonDrain, message: object, queue: str) -> bool:
        await drain.raw_messages.queues.delete(message.receipt)  # type: ignore[attr-defined]
        return await take_away(drain, message, queue)  # type: ignore[arg-type]

    monkeypatch.setattr(PoisonDrain, "_take_away", delete_first)
    scenario = next(one for one in scenarios() if one.text is not None)
    dies = next(at for at, call in enumerate(lived(scenario).calls, 1) if call == "put blob quarantine")
    assert lived(scenario, Fault(dies, Mode.DIES_BEFORE)).violations == ["the text is not in quarantine"]


def test_an_entry_for_what_the_sweep_has_delivered_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_messages, "entry_name", lambda *_: "none")
    scenario = next(one for one in scenarios() if one.claims_seconds > 48 * 3600)
    assert any("done with is in quarantine" in violation for violation in lived(scenario).violations)
