from datetime import UTC, datetime

import jwt
import pytest

from dev.simulator.tokens import (
    CHANGE_TRACKING_APP_ID,
    Forgery,
    SigningKey,
    TokenVersion,
    forge,
    validation_claims,
)

APP, TENANT = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11", "f69f5191-20ae-4093-8dae-3ec09edeb253"
ISSUERS = {1: f"https://sts.windows.net/{TENANT}/", 2: f"https://login.microsoftonline.com/{TENANT}/v2.0"}


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


def accept(token: str, key: SigningKey, version: TokenVersion) -> dict[str, object]:
    """Accept as Graph's page asks, with PyJWT; raise whatever is wrong."""
    header = jwt.get_unverified_header(token)
    if header.get("kid") != key.kid:
        raise jwt.InvalidKeyError("kid")
    public = jwt.PyJWK(key.jwk(), algorithm="RS256").key
    claims = jwt.decode(token, public, algorithms=["RS256"], audience=APP, issuer=ISSUERS[version])
    if claims["tid"] != TENANT or claims.get("appid" if version == 1 else "azp") != CHANGE_TRACKING_APP_ID:
        raise jwt.InvalidTokenError("tenant or caller")
    return claims


@pytest.mark.parametrize("version", [1, 2])
def test_a_genuine_token_is_accepted(version: TokenVersion, key: SigningKey) -> None:
    claims = validation_claims(app_id=APP, tenant_id=TENANT, now=datetime.now(UTC), version=version)
    accepted = accept(key.sign(claims), key, version)
    assert accepted["ver"] == f"{version}.0"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("forgery", list(Forgery))
def test_a_forged_token_is_not(forgery: Forgery, version: TokenVersion, key: SigningKey) -> None:
    token = forge(forgery, key, app_id=APP, tenant_id=TENANT, now=datetime.now(UTC), version=version)
    with pytest.raises(jwt.PyJWTError):
        accept(token, key, version)


def test_a_forgery_is_wrong_in_one_thing_only(key: SigningKey) -> None:
    now = datetime.now(UTC)
    token = forge(Forgery.OTHER_AUDIENCE, key, app_id=APP, tenant_id=TENANT, now=now)
    claims = jwt.decode(token, key.private_key.public_key(), algorithms=["RS256"], options={"verify_aud": False})
    genuine = validation_claims(app_id=APP, tenant_id=TENANT, now=now)
    assert {name for name in genuine if claims[name] != genuine[name]} == {"aud", "uti"}
