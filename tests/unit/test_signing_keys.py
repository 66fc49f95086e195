"""Entra ID's key set, as it should be and as it should not."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from shared.notifications.signing_keys import SigningKeys
from shared.values.http_answers import Answer
from tests.keys import SIGNING_KEY as KEY


class EntraModel:
    """Answers with a document that names a key set, and with the key set."""

    def __init__(self, *entries: object) -> None:
        self.entries = entries

    async def get(self, url: str, _headers: Mapping[str, str]) -> Answer:
        answer: Any = {"jwks_uri": "https://login.example/keys"} if "openid" in url else {"keys": self.entries}
        return Answer(200, {}, msgspec.json.encode(answer))


@pytest.mark.parametrize("odd", [None, "key", 7, [], {}, {"kty": "RSA", "kid": KEY.kid}, {**KEY.jwk(), "n": 7}])
async def test_an_entry_that_is_no_key_does_not_keep_the_others_away(odd: object) -> None:
    keys, unavailable = await SigningKeys("https://login.example", EntraModel(odd, KEY.jwk())).get({KEY.kid})  # type: ignore[arg-type]
    assert (list(keys), unavailable) == ([KEY.kid], None)
