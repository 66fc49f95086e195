"""Who gets which events on which queues, as the setting CONSUMERS says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.values.consumers import KIND_QUEUES, Consumers, is_name, parse_consumers
from shared.values.resources import CATALOGUE, EVENT_QUEUES


def consumers(*entries: dict[str, Any]) -> Consumers:
    return parse_consumers(json.dumps(entries))


def refusal(text: str) -> str:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the callers look at the message
        parse_consumers(text)
    return str(refused.value)


BILLING = {"name": "billing", "kinds": ["callRecords", "unrecognized"]}
WALLBOARD = {"name": "wall-board-2", "kinds": ["callEvents", "callRecords"]}
NO_DEFAULT = {"name": "default", "kinds": []}


class TestTargets:
    def test_without_the_setting_are_the_queues_of_today(self) -> None:
        assert Consumers().queues == parse_consumers("[]").queues
        assert sorted(Consumers().queues) == sorted(EVENT_QUEUES)

    def test_are_the_queue_of_today_and_one_for_each_consumer_of_the_kind(self) -> None:
        found = consumers(BILLING, WALLBOARD)
        assert found.targets("call-record-events") == (
            "call-record-events",
            "call-record-events-billing",
            "call-record-events-wall-board-2",
        )
        assert found.targets("call-events") == ("call-events", "call-events-wall-board-2")
        assert found.targets("unrecognized-events") == ("unrecognized-events", "unrecognized-events-billing")
        assert found.targets("presence-events") == ("presence-events",)

    def test_of_self_tests_are_their_own_alone(self) -> None:
        assert consumers(BILLING).targets("self-test-events") == ("self-test-events",)

    def test_the_queues_of_today_end_by_name(self) -> None:
        assert consumers(NO_DEFAULT, BILLING).targets("call-record-events") == ("call-record-events-billing",)

    def test_what_nobody_else_gets_is_not_lost_by_that(self) -> None:
        assert consumers(NO_DEFAULT, BILLING).targets("call-events") == ("call-events",)

    def test_all_of_them_are_the_queues(self) -> None:
        found = consumers(NO_DEFAULT, BILLING, WALLBOARD)
        assert set(found.queues) == {
            "call-events-wall-board-2",
            "call-record-events-billing",
            "call-record-events-wall-board-2",
            "unrecognized-events-billing",
            *(set(EVENT_QUEUES) - {"call-events", "call-record-events", "unrecognized-events"}),
        }

    def test_of_a_consumer_are_those_that_it_reads(self) -> None:
        (billing,) = consumers(BILLING).named
        assert billing.queues == ("call-record-events-billing", "unrecognized-events-billing")

    def test_kinds_are_the_keys_of_the_catalogue_and_unrecognized(self) -> None:
        assert set(KIND_QUEUES) == {*CATALOGUE, "unrecognized"}


class TestRefusals:
    @pytest.mark.parametrize(
        "name",
        ["", "Billing", "bill_ing", "-billing", "billing-", "bill--ing", "a" * 35, "poison", "x-poison", "b\u00fcro"],
    )
    def test_a_name_that_no_queue_could_have_is_refused_and_shown(self, name: str) -> None:
        assert repr(name) in refusal(json.dumps([{"name": name, "kinds": ["callEvents"]}]))

    @pytest.mark.parametrize("kind", ["calls", "callevents", "selfTest", ""])
    def test_an_unknown_kind_is_refused_with_those_that_there_are(self, kind: str) -> None:
        message = refusal(json.dumps([{"name": "billing", "kinds": [kind]}]))
        assert repr(kind) in message
        assert all(known in message for known in KIND_QUEUES)

    def test_default_is_no_name_for_another(self) -> None:
        assert "'default'" in refusal('[{"name": "default", "kinds": ["callEvents"]}]')

    @pytest.mark.parametrize(
        "text",
        [
            "billing",
            "{}",
            '{"name": "billing", "kinds": ["callEvents"]}',
            '[{"name": "billing"}]',
            '[{"name": "billing", "kind": ["callEvents"]}]',
            '[{"name": "billing", "kinds": "callEvents"}]',
            "[" * 100_000,
        ],
    )
    def test_another_form_is_refused_with_an_example(self, text: str) -> None:
        assert '{"name": "billing", "kinds": ["callRecords"]}' in refusal(text)

    @pytest.mark.parametrize(
        "entries",
        [
            [BILLING, BILLING],
            [NO_DEFAULT, NO_DEFAULT],
            [{"name": "billing", "kinds": []}],
            [{"name": "billing", "kinds": ["callEvents", "callEvents"]}],
        ],
    )
    def test_what_can_only_be_a_mistake_is_refused(self, entries: list[dict[str, Any]]) -> None:
        assert refusal(json.dumps(entries))


@given(st.text("abz09-poisn", max_size=40))
def test_every_queue_of_a_name_that_is_taken_fits_into_storages_rules(name: str) -> None:
    """ "Naming queues and metadata": 3 to 63 characters, letters, digits, single hyphens, none at the ends."""
    if is_name(name):
        for queue in consumers({"name": name, "kinds": list(KIND_QUEUES)}).named[0].queues:
            poison = f"{queue}-poison"
            assert 3 <= len(poison) <= 63
            assert "--" not in poison
            assert not poison.startswith("-")


class TestLeftovers:
    def test_are_queues_of_consumers_that_are_listed_no_more(self) -> None:
        existing = {
            *(f"{queue}{end}" for queue in consumers(BILLING, WALLBOARD).queues for end in ("", "-poison")),
            "raw-notifications",
            "raw-notifications-poison",
            "self-test-events",
            "somebody-elses",
        }
        assert consumers(BILLING).leftovers(existing) == [
            "call-events-wall-board-2",
            "call-events-wall-board-2-poison",
            "call-record-events-wall-board-2",
            "call-record-events-wall-board-2-poison",
        ]

    def test_the_queues_of_today_are_some_once_they_get_nothing_any_more(self) -> None:
        assert consumers(BILLING).leftovers(EVENT_QUEUES) == []
        assert consumers(NO_DEFAULT, BILLING).leftovers(EVENT_QUEUES) == ["call-record-events", "unrecognized-events"]
