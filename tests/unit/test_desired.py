"""The desired state as operators write it."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.subscriptions.desired import (
    Desired,
    DesiredState,
    DesiredStateError,
    Group,
    parse_desired,
    wanted_of_members,
)
from shared.values import resources

TENANT = "aaaaaaaa-0000-4000-8000-000000000001"
OTHER = "aaaaaaaa-0000-4000-8000-000000000002"
ALICE = "abcdef11-1111-1111-1111-111111111111"
BOB = "bcdefa22-2222-2222-2222-222222222222"
SAMPLE = Path(__file__).parents[2] / "subscriptions.sample.toml"
JOIN_URL = "https://teams.microsoft.com/l/meetup-join/19%3ameeting_example%40thread.v2/0?context=%7b%7d"


def parse(text: str, *tenant_ids: str) -> DesiredState:
    return parse_desired(text, tenant_ids=tenant_ids or (TENANT,))


def problems(text: str, *tenant_ids: str) -> list[str]:
    with pytest.raises(DesiredStateError) as caught:
        parse(text, *tenant_ids)
    assert not caught.value.permanent
    assert caught.value.reason == "desired-state"
    told = caught.value.problems
    assert caught.value.told == "\n  - ".join(["subscriptions.toml needs attention:", *told])
    title, *logged = str(caught.value).split("\n  - ")
    assert (title, len(logged)) == ("subscriptions.toml needs attention:", len(told))
    return logged


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x", ""),
        ("x = 1", ""),
        *((text, "it asks for nothing") for text in ("", "\n", "# [[callRecords]]\n", "\ufeff")),
    ],
)
def test_problems_are_those_of_the_file_that_was_read(text: str, problem: str) -> None:
    with pytest.raises(DesiredStateError, match=rf"^config/it\.toml needs attention:\n  - {problem}"):
        parse_desired(text, tenant_ids=[TENANT], source="config/it.toml")


def test_a_byte_order_mark_does_not_matter() -> None:
    assert parse("\ufeff[[callRecords]]\n") == parse("[[callRecords]]\n")


@pytest.mark.parametrize(
    ("text", "told", "logged"),
    [
        (
            '[[callEvents]]\nusers = [\n  "jane@contoso.com",\n]',
            (
                "line 3: 'jane@contoso.com' in 'users' is not a user's object id (a GUID); it looks like a user "
                'principal name: az ad user show --id "jane@contoso.com" --query id --output tsv gives the id'
            ),
            "line 3: an element of 'users' is not a user's object id (a GUID)",
        ),
        (
            '[[callEvents]]\ngroups = ["Front desk"]',
            (
                "line 2: 'Front desk' in 'groups' is not a group's object id (a GUID); az ad group show --group "
                '"Front desk" --query id --output tsv gives the id of a group by its name'
            ),
            "line 2: an element of 'groups' is not a group's object id (a GUID)",
        ),
        (
            '[[onlineMeeting]]\njoinWebUrls = ["http://x"]',
            "line 2: 'http://x' in 'joinWebUrls' is not a meeting's joinWebUrl (https, as Graph gives it)",
            "line 2: an element of 'joinWebUrls' is not a meeting's joinWebUrl (https, as Graph gives it)",
        ),
        (
            f'[[presence]]\nusers = ["{ALICE}", "{ALICE}"]',
            f"line 2: '{ALICE}' in 'users' is a duplicate of line 2",
            "line 2: an element of 'users' is a duplicate of line 2",
        ),
        (
            "[[callEvents]]\ngroups = ['$(date)']",
            "line 2: '$(date)' in 'groups' is not a group's object id (a GUID)",  # nothing to copy into a shell
            "line 2: an element of 'groups' is not a group's object id (a GUID)",
        ),
        (
            "[[callEvents]]\nusers = [[7]]",
            "line 2: [7] in 'users' is not a user's object id (a GUID)",
            "line 2: an element of 'users' is not a user's object id (a GUID)",
        ),
        (
            "[[callEvents]]\nusers = 'x'",
            "line 2: 'users' must be an array, each a user's object id (a GUID), and not 'x'",
            "line 2: 'users' must be an array, each a user's object id (a GUID)",
        ),
        ("[[callRecords]]\n[[callRecords]]", None, "line 2: entry is a duplicate of line 1"),
        ("[[callEvents]]", None, "line 1: [[callEvents]] needs groups or users"),
        (
            "[[emergencyCallEvents]]\npolicies = [' ']",
            "line 2: ' ' in 'policies' is not the name of an emergency calling policy",
            "line 2: an element of 'policies' is not the name of an emergency calling policy",
        ),
        (
            f"[[presence]]\nincludeResourceData = 1\nusers = ['{ALICE}']",
            None,
            "line 2: 'includeResourceData' must be true or false",
        ),
    ],
)
def test_who_wrote_it_is_told_the_value_and_what_to_do_and_a_log_is_not(
    text: str, told: str | None, logged: str
) -> None:
    with pytest.raises(DesiredStateError) as caught:
        parse(text)
    if told is not None:
        assert caught.value.problems == (told,)
    assert problems(text) == [logged]


def test_the_sample_as_it_comes() -> None:
    state = parse(SAMPLE.read_text())
    assert state == DesiredState(
        (Desired(TENANT, resources.CALL_RECORDS, "communications/callRecords", rich=False),), ()
    )


def test_every_form_in_the_sample() -> None:
    """Each commented entry of the sample is a valid one."""
    lines = SAMPLE.read_text().splitlines()
    form = re.compile(r'# (?=\[\[|\w+ = |    "|\]$)')
    text = "\n".join(form.sub("", line, count=1) if form.match(line) else line for line in lines)
    state = parse(text)
    assert {want.kind.key for want in state.subscriptions} == set(resources.CATALOGUE)
    assert state.groups == (Group(TENANT, "33333333-3333-3333-3333-333333333333"),)
    assert {want.kind.key for want in state.subscriptions if not want.rich} == {"callRecords", "onlineMeeting"}


def test_resources_are_those_of_the_catalogue() -> None:
    state = parse(
        f"""
        [[callEvents]]
        users = ["{ALICE.upper()}"]
        groups = ["{BOB.upper()}"]
        [[emergencyCallEvents]]
        policies = ["Head quarters' own"]
        [[meetingCallEvents]]
        joinWebUrls = ["{JOIN_URL}"]
        [[callRecords]]
        participants = ["{BOB}", "{ALICE}"]
        [[callRecords]]
        participants = ["{BOB.upper()}"]
        [[onlineMeeting]]
        joinWebUrls = ["{JOIN_URL}"]
        [[presence]]
        users = ["{BOB}", "{ALICE.upper()}"]
        """
    )
    assert state.groups == (Group(TENANT, BOB),)
    assert [want.resource for want in state.subscriptions] == [
        f"users/{ALICE}/communications/callEvents",
        "communications/calls/getEmergencyEventsByPolicy(policyName='Head quarters'' own')",
        resources.meeting_call_events_path(JOIN_URL),
        f"communications/callRecords?$filter=participants/any(p:p/id in ('{ALICE}','{BOB}'))",
        f"communications/callRecords?$filter=participants/any(p:p/id eq '{BOB}')",
        resources.online_meeting_path(JOIN_URL),
        f"communications/presences?$filter=id in ('{ALICE}','{BOB}')",
    ]
    for want in state.subscriptions:
        assert resources.match(want.resource) is want.kind
        assert want.tenant_id == TENANT
        assert want.rich is (want.kind is not resources.CALL_RECORDS)


def users(first: int, count: int) -> list[str]:
    return [f"{number:08x}-0000-4000-8000-000000000000" for number in range(first, first + count)]


def presence(ids: list[str], *lines: str) -> str:
    return "\n".join(["[[presence]]", *lines, "users = [", *(f'"{user}",' for user in ids), "]", ""])


def test_presence_of_a_tenant_is_one_subscription_whatever_the_entries() -> None:
    state = parse(presence(users(0, 400)) + presence(users(400, 250)))
    assert [want.resource.count("'") // 2 for want in state.subscriptions] == [650]
    assert state.refusal is None


def test_the_first_650_users_go_on_being_planned() -> None:
    state = parse(presence(users(500, 400)) + presence(users(0, 300)) + presence(users(2000, 1)))
    (want,) = state.subscriptions
    assert set(re.findall("'([^']+)'", want.resource)) == {*users(500, 400), *users(0, 250)}
    assert state.refusal is not None
    assert [problem.partition(" of")[0] for problem in state.refusal.problems] == [
        "line 656: refused: 50",  # after an entry of 403 lines, a header, "users = [" and 250 users
        "line 709: refused: 1",
    ]


@pytest.mark.parametrize("first", [True, False])
def test_of_rich_and_basic_presence_the_first_goes_on_being_planned(first: bool) -> None:
    texts = ["includeResourceData = true", "includeResourceData = false"]
    one, other = texts if first else reversed(texts)
    state = parse(presence(users(0, 1), one) + presence(users(1, 1), other) + presence(users(2, 1), one))
    (want,) = state.subscriptions
    assert want.rich is first
    assert set(re.findall("'([^']+)'", want.resource)) == {*users(0, 1), *users(2, 1)}
    assert state.refusal is not None
    assert [problem.partition(":")[0] for problem in state.refusal.problems] == ["line 6"]


def test_presence_of_tenants_is_apart() -> None:
    text = presence(users(0, 650), f'tenant = "{TENANT}"') + presence(
        users(0, 650), f'tenant = "{OTHER}"', "includeResourceData = false"
    )
    state = parse(text, TENANT, OTHER)
    assert [(want.tenant_id, want.rich) for want in state.subscriptions] == [(TENANT, True), (OTHER, False)]
    assert state.refusal is None


@pytest.mark.parametrize("text", ["x = " + "[" * 20_000, "x = " + "{a=" * 20_000, "x = " + "9" * 5000])
def test_what_the_parser_gives_up_on_is_a_problem_like_any_other(text: str) -> None:
    assert len(problems(text)) == 1


def test_each_entry_names_its_tenant_where_there_are_several() -> None:
    state = parse(f'[[callRecords]]\ntenant = "{OTHER.upper()}"\n[[callRecords]]\ntenant = "{TENANT}"', TENANT, OTHER)
    assert [want.tenant_id for want in state.subscriptions] == [OTHER, TENANT]
    assert problems("\n[[callRecords]]\n", TENANT, OTHER) == [
        "line 2: [[callRecords]] needs 'tenant': GRAPH_TENANT_IDS names several"
    ]
    assert problems(f'[[callRecords]]\ntenant = "{BOB}"\n') == [
        f"line 2: tenant '{BOB}' is not one of GRAPH_TENANT_IDS"
    ]


def test_every_problem_at_once_with_its_line() -> None:
    text = f'''
# a comment with [[callEvents]] and "quotes
[[callEvents]]
users = [
    "{ALICE}",  # a comment, with "commas"
    "alice@example.com", "{BOB}",
    "{ALICE.upper()}",
]
colour = "green"

[[callEvent]]
users = ["{ALICE}"]

[[onlineMeeting]]
joinWebUrls = ["http://insecure.example/1"]
includeResourceData = "yes"

[[emergencyCallEvents]]

[presence]
users = ["{ALICE}"]
'''
    found = problems(text)
    assert [problem.partition(":")[0] for problem in found] == [
        f"line {line}" for line in (6, 7, 9, 11, 15, 16, 18, 20)
    ]
    for problem, part in zip(
        found,
        (
            "an element of 'users' is not a user's object id",
            "an element of 'users' is a duplicate of line 5",
            "'colour' is not known in [[callEvents]]; there are groups, tenant, users",
            "'callEvent' is not known; there are callEvents,",
            "an element of 'joinWebUrls' is not",
            "'includeResourceData' must be true or false",
            "[[emergencyCallEvents]] needs policies",
            "write each entry of 'presence' under a header [[presence]]",
        ),
        strict=True,
    ):
        assert part in problem
    assert "alice" not in " ".join(found)


def test_an_entry_whose_participants_are_wrong_is_not_said_to_be_a_duplicate_as_well() -> None:
    assert problems("[[callRecords]]\n[[callRecords]]\nparticipants = ['x']\n[[callRecords]]\nparticipants = []") == [
        "line 3: an element of 'participants' is not a user's object id (a GUID)",
        "line 5: 'participants' must be an array, each a user's object id (a GUID)",
    ]


def test_a_filter_takes_fifty_participants() -> None:
    users = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(51)]
    assert len(parse(f"[[callRecords]]\nparticipants = {users[:50]}").subscriptions) == 1
    assert problems(f"[[presence]]\nusers = {users}\n[[callRecords]]\n\nparticipants = {users}") == [
        "line 5: at most 50 participants fit one filter: make another entry"
    ]


@pytest.mark.parametrize(
    ("kind", "key", "longest"),
    [
        ("emergencyCallEvents", "policies", "P" * 200),
        ("onlineMeeting", "joinWebUrls", "https://teams.example/X".ljust(2048, "X")),
        ("meetingCallEvents", "joinWebUrls", "https://teams.example/X".ljust(2048, "X")),
    ],
)
def test_names_and_urls_may_be_long_but_not_endless(kind: str, key: str, longest: str) -> None:
    assert len(parse(f"[[{kind}]]\n{key} = ['{longest}']").subscriptions) == 1
    [problem] = problems(f"[[{kind}]]\n{key} = ['{longest}X']")
    assert problem.startswith(f"line 2: an element of '{key}' is not")


def test_the_same_user_may_be_one_of_each_tenants() -> None:
    entries = (f"[[{kind}]]\ntenant = '{tenant}'\nusers = ['{ALICE}']" for kind in KINDS for tenant in (TENANT, OTHER))
    assert len(parse("\n".join(entries), TENANT, OTHER).subscriptions) == 4


KINDS = ("callEvents", "presence")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[callRecords]]\n[[callRecords]]\n", 2),
        (f"[[callRecords]]\n[[callRecords]]\nparticipants = ['{ALICE}']\n[[callRecords]]\nparticipants = ['x']", 5),
        ("[[presence]]", 1),
        ("callRecords = [1]", 1),
        ("\n\n[callEvents.users]", 3),
        ("\n\ncallEvents . users = 1", 3),
        ('\n\n["callEvents".users]', 3),
        ('\n"\\u0078" = 1', 1),  # escapes in keys are not looked through
        ("\n[['callRecords']]\n\n'colour' = 1", 4),
        (f"[[callEvents]]\nusers = ['{ALICE}']\n[[callEvents]]\n\ngroups = [[1]]", 5),
        (f"[[callEvents]]\nusers = ['{ALICE}']\n[[callEvents]]\ntenant = '{TENANT}'", 3),
        (f'[[callEvents]]\nusers = ["{ALICE}"]\n[[callEvents]]\nusers = [\n"{ALICE}"]', 5),
        (f'[[presence]]\nusers = ["{ALICE}", "{ALICE}"]', 2),
        ("[[callEvents]]\nusers = []", 2),
        ('[[callEvents]]\nusers = "x"', 2),
        ("[[callEvents]]\nusers = [\n1]", 3),
        ("[[callRecords]]\nincludeResourceData = true", 2),
        ('[[emergencyCallEvents]]\npolicies = ["""a\nb"""]', 2),
        ("[[meetingCallEvents]]\njoinWebUrls = [\n'https://teams.example/a b']", 3),
        ("[[meetingCallEvents]]\njoinWebUrls = [\n'https://[']", 3),
        ("a = 1", 1),
        ("\n[[callRecords]\n", 2),
        ('[[callRecords]]\nparticipants = [\n"x"]', 3),
        ('\n[["callRecords"]]\n"colour" = 1', 3),
        ("x = '''\n\n'''\n[[callRecords]]\ny = 1", 1),
    ],
)
def test_one_problem_and_its_line(text: str, line: int) -> None:
    first, *_ = problems(text)
    assert re.search(rf"\bline {line}\b", first)


def test_elements_are_counted_past_arrays_and_tables_within() -> None:
    found = problems("[[callEvents]]\nusers = [\n['a', 'b'],\n{c = 'd', e = 1.5},\n'f']")
    assert [problem.partition(":")[0] for problem in found] == ["line 2", "line 2", "line 5"]


def test_filters_of_different_entries_may_share_participants() -> None:
    state = parse(f'[[callRecords]]\nparticipants = ["{ALICE}"]\n[[callRecords]]\nparticipants = ["{ALICE}", "{BOB}"]')
    assert len(state.subscriptions) == 2


def test_a_group_stands_for_its_members() -> None:
    found = wanted_of_members(Group(TENANT, BOB), [ALICE.upper(), BOB])
    assert [want.resource for want in found] == [
        f"users/{ALICE}/communications/callEvents",
        f"users/{BOB}/communications/callEvents",
    ]
    assert all(want.rich and (want.tenant_id, want.kind) == (TENANT, resources.CALL_EVENTS) for want in found)


@given(st.text(alphabet="[]{}=,.'\"\\\n# callRecords1tuestn"))
def test_no_text_fails_in_another_way(text: str) -> None:
    with contextlib.suppress(DesiredStateError):
        parse(text)


@given(st.lists(st.sampled_from(["blank", "comment", "text", "literal", "quoted", "array"]), max_size=12))
def test_lines_are_counted_through_anything(parts: list[str]) -> None:
    pieces = {
        "blank": "\n",
        "comment": "# [[presence]] 'x\n",
        "text": '[[emergencyCallEvents]]\npolicies = ["""\nmany\n\\"lines\n"""]\n',
        "literal": "[[emergencyCallEvents]]\npolicies = ['''\n[[callRecords]]\n' ]]\n''']\n",
        "quoted": '[[emergencyCallEvents]]\npolicies = [\'a]\', "b\\"]", \'c #\', "d = ["]\n',
        "array": f"[[callEvents]]\ngroups = [ # '''\n\n  '{ALICE}'\n,]\n",
    }
    text = "".join(pieces[part] for part in parts)
    found = problems(f'{text}[[callRecords]]\n\nwrong = 1 # "\n')
    assert f"line {text.count('\n') + 3}: 'wrong' is not known in [[callRecords]]" in " ".join(found)
