"""Transcripts and recordings: how Graph announces them, and how their subscriptions are made and kept."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import Desired, DesiredState, DesiredStateError, parse_desired
from shared.subscriptions.state import recalled, remembered
from shared.values import graph, graph_errors, resources
from shared.values.endpoint import Endpoint
from shared.values.events.event_data import CallRecordingData, CallTranscriptData
from shared.values.events.event_types import parse
from shared.values.items import parse_item
from shared.values.resources import UNRECOGNIZED
from tests.fakes import event_from
from tests.unit.model_graph import ENDPOINT, TENANT, Fault, call_events, limit_reached, refuse, user
from tests.unit.test_execution import create
from tests.unit.test_renew import Scenario, begun

SAMPLES = Path(__file__).parents[1] / "samples"
RECEIVED = datetime(2026, 4, 1, tzinfo=UTC)
USER = "11111111-1111-1111-1111-111111111111"
EVERY_MEETING = Desired(TENANT, resources.TRANSCRIPTS, "communications/onlineMeetings/getAllTranscripts", rich=True)
DAY = timedelta(days=1)
OFF = refuse(graph_errors.TranscriptAccessError())


def samples(folder: str) -> list[Path]:
    found = sorted((SAMPLES / folder).glob("transcript-*.json")) + sorted((SAMPLES / folder).glob("recording-*.json"))
    assert found
    return found


def item_of(path: Path) -> dict[str, Any]:
    """An item as the page shows it: some without a collection around them."""
    shown = json.loads(path.read_text())
    return dict(shown["value"][0] if "value" in shown else shown)


event = partial(event_from, received=RECEIVED)


def kind_of(path: Path) -> tuple[str, str]:
    word = path.name.partition("-")[0]
    return f"{word}-events", f"Microsoft.Graph.Call{word.capitalize()}Created"


class TestNotifications:
    @pytest.mark.parametrize("path", samples("notifications"), ids=lambda path: path.stem)
    @pytest.mark.parametrize("told_by", ["resource", "type"])
    def test_are_known_by_every_spelling_of_the_path_and_by_the_type(self, path: Path, told_by: str) -> None:
        item = item_of(path)
        item |= {"resource": "something/new"} if told_by == "type" else {"resourceData": {}}
        found = event(item)
        assert (found.queue, found.type) == kind_of(path)

    @pytest.mark.parametrize("path", samples("notifications"), ids=lambda path: path.stem)
    def test_name_what_was_made_by_its_own_id(self, path: Path) -> None:
        """The id in `resourceData` of an ad hoc call's transcript is a user's."""
        item = item_of(path)
        identity = json.loads(event(item).data)["id"]
        assert len(identity) > 100
        assert identity in item["resource"].rpartition("/")[2]

    @pytest.mark.parametrize("path", samples("decrypted"), ids=lambda path: path.stem)
    def test_happen_when_what_was_made_ended_or_else_began(self, path: Path) -> None:
        content = json.loads(path.read_text())
        outer = item_of(SAMPLES / "notifications" / path.name)
        for missing in ([], ["endDateTime"], ["endDateTime", "createdDateTime"]):
            shown = {name: value for name, value in content.items() if name not in missing}
            expected = shown.get("endDateTime") or shown.get("createdDateTime") or RECEIVED.isoformat()
            found = event(outer, json.dumps(shown).encode())
            assert (found.queue, found.type, found.attributes["time"]) == (*kind_of(path), expected)

    @pytest.mark.parametrize("path", samples("decrypted"), ids=lambda path: path.stem)
    def test_carry_what_graph_encrypted_and_can_be_read_as_its_type(self, path: Path) -> None:
        content = json.loads(path.read_text())
        found = event(item_of(SAMPLES / "notifications" / path.name), path.read_bytes())
        data = parse(found.to_json())[0].typed()
        assert isinstance(data, CallTranscriptData | CallRecordingData)
        assert (data.id, data.meeting_id, data.call_id) == (
            content["id"],
            content["meetingId"],
            content.get("callId"),
        )
        assert data.meeting_organizer is not None
        assert data.meeting_organizer.user is not None

    @pytest.mark.parametrize("plaintext", [b"null", b"[1]", b'"x"'])
    def test_whose_content_is_no_object_are_unrecognized(self, plaintext: bytes) -> None:
        assert event(item_of(samples("notifications")[0]), plaintext).type == UNRECOGNIZED

    def test_with_the_content_under_its_older_name_are_rich_and_show_none_of_it(self) -> None:
        older = item_of(SAMPLES / "notifications" / "transcript-of-a-meeting-older.json")
        parsed = parse_item(json.dumps(older).encode())
        assert parsed.notification.needs_token
        assert parsed.notification.certificate_id == older["EncryptedContent"]["encryptionCertificateId"]
        assert b"ncryptedContent" not in event(older | {"resource": "x", "resourceData": None}).data
        both = parse_item(json.dumps(older | {"encryptedContent": {"encryptionCertificateId": "c"}}).encode())
        assert both.notification.certificate_id == "c"


class TestDesiredState:
    def test_may_ask_for_all_that_graph_offers(self) -> None:
        text = f"""
        [[transcripts]]
        allMeetings = true
        organizers = ["{USER}"]
        meetings = ["MSo1=="]
        [[recordings]]
        allAdHocCalls = true
        adHocUsers = ["{USER}"]
        """
        wanted = parse_desired(text, tenant_ids=[TENANT]).subscriptions
        assert {(want.resource, want.form.permission, want.form.api_versions) for want in wanted} == {
            ("communications/onlineMeetings/getAllTranscripts", "OnlineMeetingTranscript.Read.All", ("v1.0",)),
            (f"users/{USER}/onlineMeetings/getAllTranscripts", "OnlineMeetingTranscript.Read.All", ("v1.0",)),
            ("communications/onlineMeetings/MSo1==/transcripts", "OnlineMeetingTranscript.Read.All", ("v1.0",)),
            ("communications/adhocCalls/getAllRecordings", "CallRecordings.Read.All", ("beta",)),
            (f"users/{USER}/adhocCalls/getAllRecordings", "CallRecordings.Read.All", ("v1.0", "beta")),
        }
        assert all(want.rich for want in wanted)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "line 1: [[transcripts]] needs adHocUsers or allAdHocCalls or allMeetings or meetings or organizers"),
            ("allMeetings = false", "line 1: [[transcripts]] needs "),
            ("allMeetings = 'yes'", "line 2: 'allMeetings' must be true or false"),
            ("meetings = ['a/b']", "line 2: 'a/b' in 'meetings' is not an online meeting's id, as Graph gives it"),
            ("allMeetings = true\n[[transcripts]]\nallMeetings = true", "line 4: 'allMeetings' is a duplicate of"),
        ],
    )
    def test_has_its_problems_named(self, text: str, problem: str) -> None:
        with pytest.raises(DesiredStateError) as caught:
            parse_desired(f"[[transcripts]]\n{text}", tenant_ids=[TENANT])
        (told,) = caught.value.problems
        assert told.startswith(problem)


AD_HOC = Desired(TENANT, resources.RECORDINGS, f"users/{USER}/adhocCalls/getAllRecordings", rich=True)


class TestApiVersion:
    """Graph's pages disagree on the version in which a user's ad hoc calls are known."""

    @pytest.mark.parametrize("refusal", [graph_errors.RequestRejectedError("400"), graph_errors.NotFoundError("404")])
    def test_that_refuses_a_path_is_followed_by_the_other(self, refusal: graph_errors.GraphError) -> None:
        made = replace(EXISTING, id="new", resource=AD_HOC.resource, api_version="beta")
        play = create(refusal, made, want=AD_HOC)
        assert [call.api_version for call in play.calls] == ["v1.0", "beta"]
        assert play.result.outcome is Outcome.CREATED

    def test_is_tried_no_more_than_once_each(self) -> None:
        play = create(graph_errors.RequestRejectedError("1"), graph_errors.RequestRejectedError("2"), want=AD_HOC)
        assert (play.result.outcome, str(play.result.error)) == (Outcome.FAILED, "2")

    def test_of_a_subscription_is_remembered(self) -> None:
        for version in ("v1.0", "beta"):
            value = {"id": "1", "resource": AD_HOC.resource, "expirationDateTime": "2026-05-01T00:00:00Z"}
            made = replace(graph.parse_subscription(value, TENANT, version), life=timedelta(hours=1))
            assert made.api_version == version
            kept = remembered(made)
            assert kept is not None
            back = recalled("1", TENANT, kept)
            assert back is not None
            assert back.api_version == version


EXISTING = graph.Subscription(
    id="1",
    tenant_id=TENANT,
    api_version="v1.0",
    resource=EVERY_MEETING.resource,
    change_type="created",
    notification_url="https://calls.example.com/api/notifications",
    expires=RECEIVED,
)


async def test_a_limit_that_is_reached_by_our_own_subscription_means_that_it_is_adopted() -> None:
    """Graph refuses a second one with 403, "reached its limit", where it answers 409 for other resources."""
    scenario = await begun(EVERY_MEETING)
    (there,) = scenario.graph.live()
    scenario.graph.unlisted = {there.id}
    scenario.known.memories.clear()

    def limit(call: graph.Call) -> Fault | None:
        if call.method != "POST":
            return None
        scenario.graph.unlisted.clear()  # the list is late
        return refuse(graph_errors.QuotaExceededError("403 Forbidden: has reached its limit"))

    scenario.graph.faults = limit
    report = await scenario.process().run()
    assert (report.outcomes, report.failures) == ({Outcome.ADOPTED: 1}, ())
    assert scenario.graph.live() == [there]


async def test_a_limit_that_another_has_reached_is_reported() -> None:
    scenario = Scenario(EVERY_MEETING, call_events(1))
    scenario.graph.faults = lambda call: (
        refuse(graph_errors.QuotaExceededError("403"))
        if call.method == "POST" and "Transcripts" in str(call.body)
        else None
    )
    report = await scenario.renewal.run()
    assert [(failure.kind, failure.reason) for failure in report.failures] == [("transcripts", "quota")]
    assert report.live == 1


async def test_a_life_that_is_refused_to_those_of_ad_hoc_calls_is_no_shorter_for_those_of_meetings() -> None:
    """Graph's table names three days for both, and applications have found an hour for ad hoc calls."""
    of_meetings = replace(AD_HOC, resource=f"users/{USER}/onlineMeetings/getAllRecordings")
    scenario = Scenario(AD_HOC, maximum={AD_HOC.resource: timedelta(hours=1)})
    await scenario.renewal.run()
    scenario.source.state = DesiredState((AD_HOC, of_meetings), ())
    for _ in range(2):  # made, and then renewed
        await scenario.renewal.run()
        lives = {one.resource: one.expires - scenario.clock.now() for one in scenario.graph.live()}
        assert lives[of_meetings.resource] > timedelta(hours=69)
        assert lives[AD_HOC.resource] < timedelta(hours=1)
        scenario.clock.advance(timedelta(hours=40))
        await scenario.renewal.run()


class TestTheLimitOfAUser:
    """Ten applications may watch what is made in the meetings of one organizer, each by one subscription."""

    def organizers(self, count: int) -> list[Desired]:
        paths = [f"users/{user(number)}/onlineMeetings/getAllRecordings" for number in range(count)]
        return [Desired(TENANT, resources.RECORDINGS, path, rich=True) for path in paths]

    async def test_that_others_have_used_up_is_told_with_the_path_and_asked_about_once_in_each_run(self) -> None:
        wanted = self.organizers(6)
        scenario = Scenario(*wanted)
        full = {want.resource for want in wanted[:4]}
        scenario.graph.of_others.update(dict.fromkeys(full, 10))
        for run in range(1, 4):
            report = await scenario.process().run()
            [failure] = report.failures
            assert (failure.kind, failure.reason, failure.count) == ("recordings", "quota", 4)
            assert f"of {wanted[0].resource} Graph allows one subscription of an application" in failure.detail
            assert "10 of all applications together" in failure.detail
            assert {one.resource for one in scenario.graph.live()} == {want.resource for want in wanted[4:]}
            assert (scenario.graph.methods(), scenario.graph.lists) == ({"POST": 2 + 4 * run}, 2 * run)
            scenario.clock.advance(timedelta(minutes=5))
        scenario.graph.of_others.clear()
        report = await scenario.process().run()
        assert (report.live, report.failures) == (6, ())

    async def test_that_is_reached_while_one_is_replaced_costs_it_no_sooner_than_a_conflict_would(self) -> None:
        """Graph does not say which of two limits it names first."""
        [want] = self.organizers(1)
        scenario = await begun(want)
        [there] = scenario.graph.live()
        scenario.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("new", "secret"))
        scenario.graph.of_others[want.resource] = 9
        scenario.graph.unique = False
        quarter = (there.expires - scenario.clock.now()) / 4
        while there.expires - scenario.clock.now() > quarter:
            await scenario.process().run()
            assert scenario.graph.live() == [there]
            scenario.clock.advance(timedelta(hours=2))
        report = await scenario.process().run()
        [successor] = scenario.graph.live()
        assert (successor.id != there.id, report.failures) == (True, ())

    async def test_is_not_the_organizations_after_which_nothing_more_of_the_kind_is_tried(self) -> None:
        scenario = Scenario(*self.organizers(100))
        organization = limit_reached("organization", 10_000)
        unnamed = graph_errors.error_of(
            403, {"error": {"message": "Tenant has reached its maximum number of subscriptions"}}
        )
        for error in (organization, unnamed):
            scenario.graph.faults = lambda call, error=error: refuse(error) if call.method == "POST" else None
            report = await scenario.process().run()
            assert [(failure.reason, failure.count) for failure in report.failures] == [("quota", 100)]
        assert (scenario.graph.methods(), scenario.graph.lists) == ({"POST": 2 * 80}, 4)  # what is under way at once


class TestTheTenantsSwitch:
    """No tenant lets Graph have transcripts before a Teams administrator says so."""

    def test_is_told_with_what_an_administrator_has_to_do(self) -> None:
        inner = {"code": "GraphAccessToTranscriptsDisabled", "request-id": "x"}
        said = {"code": "Forbidden", "message": "Graph API access to transcripts is disabled for this tenant."}
        error = graph_errors.error_of(403, {"error": said | {"innerError": inner}})
        assert isinstance(error, graph_errors.TranscriptAccessError)
        assert "Set-CsTeamsMeetingConfiguration -Identity Global -EnableGraphTranscriptAccess $true" in str(error)

    async def test_stops_nothing_else_and_is_asked_about_every_half_hour(self) -> None:
        scenario = Scenario(EVERY_MEETING, call_events(1))
        scenario.graph.faults = lambda call: OFF if "Transcripts" in str(call.body) else None
        for _ in range(12):
            report = await scenario.process().run()
            (failure,) = report.failures
            assert (failure.kind, failure.reason) == ("transcripts", "transcript-access")
            assert "Teams administrator" in failure.detail
            scenario.clock.advance(timedelta(minutes=5))
        assert sum("Transcripts" in str(call.body) for call in scenario.graph.calls) == 2
        (failure,) = (await scenario.process().plan()).failures
        assert "Teams administrator" in failure.detail

        scenario.graph.faults = lambda _: None
        for _ in range(7):
            report = await scenario.process().run()
            scenario.clock.advance(timedelta(minutes=5))
        assert (report.live, report.failures) == (2, ())

    async def test_that_is_turned_off_again_costs_no_subscription_sooner_than_its_end(self) -> None:
        scenario = await begun(EVERY_MEETING, maximum={"transcripts": timedelta(hours=4)})
        (there,) = scenario.graph.live()
        scenario.graph.faults = lambda call: OFF if call.method in {"PATCH", "POST"} else None
        scenario.graph.calls.clear()
        while there.expires - scenario.clock.now() > timedelta(minutes=45):
            report = await scenario.process().run()
            assert scenario.graph.live() == [there]
            scenario.clock.advance(timedelta(minutes=5))
        assert [failure.reason for failure in report.failures] == ["transcript-access"]
        methods = scenario.graph.methods()
        assert methods.get("DELETE", 0) == 0
        assert methods["PATCH"] < 6  # of 40 runs

        scenario.graph.faults = lambda _: None
        scenario.clock.advance(timedelta(minutes=30))
        report = await scenario.process().run()
        assert (report.outcomes, report.failures) == ({Outcome.RENEWED: 1}, ())


async def test_a_version_that_does_not_know_a_header_desires_nothing_new_renews_all_and_removes_nothing() -> None:
    """What a roll-back meets: `subscriptions.toml` has a row of a later version, which has made subscriptions."""
    scenario = await begun(call_events(1), call_events(2))
    later = scenario.graph.add(call_events(3), resource="later/resources", expires=scenario.clock.now() + DAY)
    with pytest.raises(DesiredStateError) as caught:
        parse_desired("[[laterResource]]\nusers = ['x']\n[[callRecords]]\n", tenant_ids=[TENANT])
    scenario.source.state = caught.value
    before = {one.id: one.expires for one in scenario.graph.live()}
    for _ in range(80):
        scenario.clock.advance(timedelta(minutes=20))
        report = await scenario.process().run()
    assert later.id in before
    assert {one.id for one in scenario.graph.live()} == before.keys()
    assert scenario.graph.methods().keys() == {"POST", "PATCH"}
    assert scenario.graph.methods()["POST"] == 2
    assert "'laterResource' is not known" in report.failures[0].detail
    assert isinstance(scenario.source.state, DesiredStateError)
    scenario.source.state = DesiredState((call_events(1), call_events(2)), ())
    assert (await scenario.process().run()).failures == ()
