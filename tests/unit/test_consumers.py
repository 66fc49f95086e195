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


BILLING = {"name": "billing", "kinds": ["callRecords", "unrecognized"]}
WALLBOARD = {"name": "wall-board-2", "kinds": ["callEvents", "callRecords"]}
NO_DEFAULT = {"name": "default", "kinds": []}


class TestTargets:
    def test_without_the_setting_are_the_queues_of_today(self) -> None:
        assert Consumers().queues == parse_consumers("[]").queues
        assert sorted(Consumers().queues) == sorted(EVENT_QUEUES)

    @pytest.mark.parametrize(
        ("entries", "queue", "targets"),
        [
            (
                [BILLING, WALLBOARD],
                "call-record-events",
                ("call-record-events", "call-record-events-billing", "call-record-events-wall-board-2"),
            ),
            ([BILLING, WALLBOARD], "call-events", ("call-events", "call-events-wall-board-2")),
            ([BILLING, WALLBOARD], "unrecognized-events", ("unrecognized-events", "unrecognized-events-billing")),
            ([BILLING, WALLBOARD], "presence-events", ("presence-events",)),
            ([BILLING], "self-test-events", ("self-test-events",)),
            ([NO_DEFAULT, BILLING], "call-record-events", ("call-record-events-billing",)),
            ([NO_DEFAULT, BILLING], "call-events", ("call-events",)),  # what nobody else gets is not lost by that
        ],
    )
    def test_are_the_queue_of_today_and_one_for_each_consumer_of_the_kind(
        self, entries: list[dict[str, Any]], queue: str, targets: tuple[str, ...]
    ) -> None:
        assert consumers(*entries).targets(queue) == targets

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


EXAMPLE = '{"name": "billing", "kinds": ["callRecords"]}'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # A name that no queue could have, and one that is taken.
        *(
            (json.dumps([{"name": name, "kinds": ["callEvents"]}]), [repr(name)])
            for name in (
                *("", "Billing", "bill_ing", "-billing", "billing-", "bill--ing", "a" * 35, "poison", "x-poison"),
                *("b\u00fcro", "default"),
            )
        ),
        # An unknown kind, with those that there are.
        *(
            (json.dumps([{"name": "billing", "kinds": [kind]}]), [repr(kind), *KIND_QUEUES])
            for kind in ("calls", "callevents", "selfTest", "")
        ),
        # Another form, with an example.
        ("billing", [EXAMPLE]),
        ("{}", [EXAMPLE]),
        ('{"name": "billing", "kinds": ["callEvents"]}', [EXAMPLE]),
        ('[{"name": "billing"}]', [EXAMPLE]),
        ('[{"name": "billing", "kind": ["callEvents"]}]', [EXAMPLE]),
        ('[{"name": "billing", "kinds": "callEvents"}]', [EXAMPLE]),
        ("[" * 100_000, [EXAMPLE]),
        # What can only be a mistake.
        (json.dumps([BILLING, BILLING]), ["billing"]),
        (json.dumps([NO_DEFAULT, NO_DEFAULT]), ["default"]),
        ('[{"name": "billing", "kinds": []}]', ["billing"]),
        ('[{"name": "billing", "kinds": ["callEvents", "callEvents"]}]', ["billing"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused_and_shown(text: str, shown: list[str]) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what is looked at is the message
        parse_consumers(text)
    assert all(each in str(refused.value) for each in shown)


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
