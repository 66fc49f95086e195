"""Validation tokens: each check has the attack that it stops."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.simulator.tokens import Forgery, forge, validation_claims
from shared.notifications.tokens import (
    CHINA,
    GRAPH_CHANGE_TRACKING_APP_ID,
    MAX_TOKEN_CHARS,
    PUBLIC_CLOUD,
    US_GOVERNMENT,
    Claims,
    Issuers,
    PublishedKey,
    issuers_of,
    tenant_hint,
    validate,
)
from shared.values.errors import TokenRejected
from tests.keys import PAIR
from tests.keys import SIGNING_KEY as KEY

APP = "7c5f5b4e-0a4f-4c3e-9a4d-0d8c5d6f7a01"
TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
STRANGER = "00000000-1111-2222-3333-444444444444"


def check(token: str, **changes: Any) -> Claims:
    arguments: dict[str, Any] = {
        "signing_keys": {KEY.kid: [PublishedKey(KEY.private_key.public_key())]},
        "audiences": {APP},
        "tenants": {TENANT},
        "now": NOW,
    }
    return validate(token, **(arguments | changes))


def token(version: int = 2, **changes: Any) -> str:
    claims = validation_claims(app_id=APP, tenant_id=TENANT, now=NOW, version=version) | changes  # type: ignore[arg-type]
    payload = json.dumps({name: value for name, value in claims.items() if value is not ...})
    return jwt.PyJWS().encode(payload.encode(), KEY.private_key, "RS256", headers={"kid": KEY.kid})


def reason(text: str, **changes: Any) -> str:
    with pytest.raises(TokenRejected) as caught:
        check(text, **changes)
    assert caught.value.permanent
    return caught.value.reason


@pytest.mark.parametrize("version", [1, 2])
def test_a_genuine_token(version: int) -> None:
    assert check(token(version)) == Claims(TENANT, APP, NOW + timedelta(hours=24))


FORGERIES = {
    Forgery.ALG_NONE: "algorithm",
    Forgery.HS256_PUBLIC_KEY: "algorithm",
    Forgery.WRONG_KEY: "signature",
    Forgery.UNKNOWN_KID: "unknown-key",
    Forgery.NO_KID: "no-key-id",
    Forgery.TAMPERED: "signature",
    Forgery.EXPIRED: "expired",
    Forgery.NOT_YET_VALID: "not-yet-valid",
    Forgery.OTHER_AUDIENCE: "audience",
    Forgery.OTHER_TENANT: "tenant",
    Forgery.OTHER_CALLER: "caller",
    Forgery.NO_CALLER: "caller",
    Forgery.ISSUER_OTHER_TENANT: "issuer",
    Forgery.ISSUER_LOOKALIKE: "issuer",
    Forgery.ISSUER_SUFFIX: "issuer",
}


@pytest.mark.parametrize("forgery", Forgery)
def test_a_forgery(forgery: Forgery) -> None:
    for version in (1, 2):
        text = forge(forgery, KEY, app_id=APP, tenant_id=TENANT, now=NOW, version=version)  # type: ignore[arg-type]
        assert reason(text) == FORGERIES[forgery]


@pytest.mark.parametrize(
    ("name", "good", "bad", "why"), [("exp", -299, -300, "expired"), ("nbf", 300, 301, "not-yet-valid")]
)
def test_the_leeway_of_times(name: str, good: int, bad: int, why: str) -> None:
    assert check(token(**{name: NOW.timestamp() + good}))
    assert reason(token(**{name: NOW.timestamp() + bad})) == why


@pytest.mark.parametrize("value", [..., None, "9999999999", True, [], float("inf")], ids=repr)
def test_times_that_are_none(value: object) -> None:
    for name in ("exp", "nbf"):
        assert reason(token(**{name: value})) in {"times", "malformed"}, name
    assert reason(token(exp=1e300)) == "times"  # beyond the calendar


@pytest.mark.parametrize(
    ("name", "why"), [("aud", "audience"), ("tid", "tenant"), ("iss", "issuer"), ("azp", "caller"), ("ver", "version")]
)
def test_claims_that_are_missing_or_of_another_type(name: str, why: str) -> None:
    for value in (..., None, 7, [], [APP], {}, ""):
        assert reason(token(**{name: value})) == why, value


def test_guids_in_capitals_are_the_same() -> None:
    assert check(token(aud=APP.upper()), tenants={TENANT.upper()}, audiences={APP.upper()}).audience == APP


ISSUERS = {v: validation_claims(app_id=APP, tenant_id=TENANT, now=NOW, version=v)["iss"] for v in (1, 2)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "claims", "changes", "why"),
    [
        *((2, {"ver": other}, {}, "version") for other in ("3.0", "1", "2", 2.0)),
        # A version with what the other one has.
        (1, {"iss": ISSUERS[2]}, {}, "issuer"),
        (2, {"iss": ISSUERS[1]}, {}, "issuer"),
        (1, {"appid": ..., "azp": GRAPH_CHANGE_TRACKING_APP_ID}, {}, "caller"),
        (2, {"azp": ..., "appid": GRAPH_CHANGE_TRACKING_APP_ID}, {}, "caller"),
        # Who is not served, and that nobody is served by what is empty.
        (2, {}, {"tenants": {STRANGER}}, "tenant"),
        (2, {}, {"tenants": set()}, "tenant"),
        (2, {"tid": ...}, {"tenants": {"", "xxxx"}}, "tenant"),
        (2, {}, {"audiences": set()}, "audience"),
        (2, {"aud": ...}, {"audiences": {"", "xxxx"}}, "audience"),
    ],
)
def test_what_does_not_belong_together(version: int, claims: dict[str, Any], changes: dict[str, Any], why: str) -> None:
    assert reason(token(version, **claims), **changes) == why


@pytest.mark.parametrize(
    ("cloud", "version", "issuer"),
    [
        (US_GOVERNMENT, 2, f"https://login.microsoftonline.us/{TENANT}/v2.0"),
        (CHINA, 2, f"https://login.partner.microsoftonline.cn/{TENANT}/v2.0"),
        (CHINA, 1, f"https://sts.chinacloudapi.cn/{TENANT}/"),
    ],
)
def test_national_clouds_have_issuers_of_their_own(cloud: Issuers, version: int, issuer: str) -> None:
    text = token(version, iss=issuer)
    assert check(text, issuers=cloud).tenant_id == TENANT
    assert reason(text) == "issuer"
    assert reason(token(version), issuers=cloud) == "issuer"
    assert check(token(1), issuers=US_GOVERNMENT).tenant_id == TENANT  # whose first version has the public name


PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"
CLOUDS = [PUBLIC_CLOUD, US_GOVERNMENT, CHINA]


def of_cloud(cloud: Issuers, version: int) -> str:
    name = cloud.v1 if version == 1 else cloud.v2
    return token(version, iss=name.replace("{tid}", TENANT))


def published(*issuers: str | None) -> dict[str, list[PublishedKey]]:
    return {KEY.kid: [PublishedKey(KEY.private_key.public_key(), issuer) for issuer in issuers]}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("whose", "genuine"), [("{tenantid}", True), (TENANT, True), (None, True), (STRANGER, False), (PERSONAL, False)]
)
def test_a_key_signs_for_whom_it_says(cloud: Issuers, version: int, whose: str | None, genuine: bool) -> None:
    keys = published(None if whose is None else cloud.v2.replace("{tid}", whose))
    text = of_cloud(cloud, version)
    if genuine:
        assert check(text, signing_keys=keys, issuers=cloud).tenant_id == TENANT
    else:
        assert reason(text, signing_keys=keys, issuers=cloud) == "key-issuer"


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("other", CLOUDS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_key_of_another_cloud_signs_for_nobody_here(cloud: Issuers, other: Issuers, version: int) -> None:
    keys = published(other.v2.replace("{tid}", "{tenantid}"))
    text = of_cloud(cloud, version)
    if cloud is other:
        assert check(text, signing_keys=keys, issuers=cloud)
    else:
        assert reason(text, signing_keys=keys, issuers=cloud) == "key-issuer"


def test_no_key_names_a_version_1_issuer() -> None:
    assert reason(token(1), signing_keys=published(PUBLIC_CLOUD.v1.replace("{tid}", "{tenantid}"))) == "key-issuer"


def test_of_two_entries_with_one_id_either_may_fit() -> None:
    foreign, ours = PUBLIC_CLOUD.v2.replace("{tid}", PERSONAL), PUBLIC_CLOUD.v2.replace("{tid}", "{tenantid}")
    stranger = PublishedKey(PAIR.private_key.public_key(), ours)
    for issuers in ((foreign, ours), (ours, foreign)):
        assert check(token(), signing_keys=published(*issuers))
    (key,) = published(ours)[KEY.kid]
    for both in ([key, stranger], [stranger, key]):
        assert check(token(), signing_keys={KEY.kid: both})
    (personal,) = published(foreign)[KEY.kid]
    assert reason(token(), signing_keys={KEY.kid: [stranger, personal]}) == "key-issuer"
    assert reason(token(), signing_keys={KEY.kid: [stranger]}) == "signature"


def test_an_unknown_critical_header() -> None:
    claims = validation_claims(app_id=APP, tenant_id=TENANT, now=NOW)
    text = jwt.encode(claims, KEY.private_key, "RS256", headers={"kid": KEY.kid, "crit": ["exp2"], "exp2": 1})
    assert reason(text) in {"signature", "malformed"}


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_another_algorithm_of_the_same_key(algorithm: str) -> None:
    claims = validation_claims(app_id=APP, tenant_id=TENANT, now=NOW)
    assert reason(jwt.encode(claims, KEY.private_key, algorithm, headers={"kid": KEY.kid})) == "algorithm"


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"7", b"null", b"\xff", b"", b"[" * 100_000])
def test_a_signed_payload_that_is_no_set_of_claims(payload: bytes) -> None:
    text = jwt.PyJWS().encode(payload, KEY.private_key, "RS256", headers={"kid": KEY.kid})
    assert reason(text) in {"malformed", "too-long"}


def test_a_token_that_is_too_long() -> None:
    assert reason("a" * 16_385) == "too-long"
    assert reason("a" * 16_384) == "malformed"


def test_an_empty_key_id_is_none() -> None:
    text = jwt.PyJWS().encode(b"{}", KEY.private_key, "RS256", headers={"kid": ""})
    assert reason(text, signing_keys={"": [PublishedKey(KEY.private_key.public_key())]}) == "no-key-id"


@pytest.mark.parametrize(
    ("endpoint", "issuers"),
    [
        ("https://login.microsoftonline.com", PUBLIC_CLOUD),
        ("https://login.microsoftonline.us", US_GOVERNMENT),
        ("https://login.partner.microsoftonline.cn/", CHINA),
        ("https://login.chinacloudapi.cn", CHINA),
        ("https://LOGIN.microsoftonline.us:443", US_GOVERNMENT),
        ("https://login.microsoftonline.us.attacker.example", PUBLIC_CLOUD),
        ("https://127.0.0.1:9302", PUBLIC_CLOUD),
        ("", PUBLIC_CLOUD),
    ],
)
def test_the_issuers_follow_from_the_login_endpoint(endpoint: str, issuers: Issuers) -> None:
    assert issuers_of(endpoint) == issuers


def test_the_tenant_that_a_token_names_is_read_before_anything_is_believed() -> None:
    assert tenant_hint(token(tid=TENANT.upper())) == TENANT
    assert tenant_hint(token(tid=...)) is None
    for length in range(8):  # of the payload, whose padding follows from it
        assert tenant_hint(forge(Forgery.WRONG_KEY, KEY, app_id=APP, tenant_id="t" * length, now=NOW)) == "t" * length


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x" * MAX_TOKEN_CHARS, "malformed"),
        ("x" * (MAX_TOKEN_CHARS + 1), "too-long"),
        ("a.b", "malformed"),
        ("a.b.c.d", "malformed"),
        ("a.!.c", "malformed"),
        ("a.W10.c", "malformed"),
    ],
    ids=lambda text: text[:10],
)
def test_no_tenant_is_read_from_what_is_no_token(text: str, why: str) -> None:
    with pytest.raises(TokenRejected) as caught:
        tenant_hint(text)
    assert caught.value.reason == why


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", fullmatch=True))
def test_text_that_is_no_token(text: str) -> None:
    assert reason(text)


GENUINE = token()


@settings(max_examples=150)
@given(st.integers(0, len(GENUINE) - 1), st.characters(codec="ascii"))
def test_no_altered_character_goes_unnoticed(at: int, other: str) -> None:
    altered = GENUINE[:at] + other + GENUINE[at + 1 :]
    if altered != GENUINE:
        assert reason(altered)
