"""What Key Vault keeps of a sign-in may be damaged: somebody has to sign in then, and all else goes on."""

import json
from copy import deepcopy
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from shared.graph.sign_in import SignedInUser
from shared.values.graph_errors import SignInRequiredError

AUTHORITY = "https://127.0.0.1:1/aaaaaaaa-0000-4000-8000-000000000001"  # where nobody answers
ENVIRONMENT = {"home_account_id": "user.tenant", "environment": "127.0.0.1"}
KEPT: dict[str, dict[str, dict[str, Any]]] = {
    "RefreshToken": {"r": ENVIRONMENT | {"credential_type": "RefreshToken", "secret": "s", "client_id": "app"}},
    "Account": {"a": ENVIRONMENT | {"authority_type": "MSSTS", "username": "u", "realm": "tenant"}},
    "AppMetadata": {"m": {"client_id": "app", "environment": "127.0.0.1"}},
}


class Vault:
    def __init__(self, value: str | None) -> None:
        self.value = value

    def get_secret(self, _name: str) -> Any:
        return SimpleNamespace(value=self.value, properties=SimpleNamespace(updated_on=datetime.now(UTC)))


def damaged(section: str, entry: str, field: str, value: Any = None) -> str:
    """What is kept, with one field of another value, or without it."""
    kept = deepcopy(KEPT)
    if value is None:
        del kept[section][entry][field]
    else:
        kept[section][entry][field] = value
    return json.dumps(kept)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "null",
        "[]",
        '"x"',
        "{" * 10_000,
        '{"Account": []}',
        '{"Account": {"a": null}}',
        '{"RefreshToken": {"r": 1}}',
        damaged("Account", "a", "authority_type"),
        damaged("Account", "a", "home_account_id", ["user"]),
        damaged("Account", "a", "environment", {"x": 1}),
        damaged("Account", "a", "realm", ["tenant"]),
        damaged("RefreshToken", "r", "secret"),
        damaged("RefreshToken", "r", "home_account_id", 5),
        damaged("AppMetadata", "m", "client_id", {}),
    ],
)
def test_a_damaged_sign_in_is_no_sign_in(value: str | None) -> None:
    user = SignedInUser(Vault(value), "presence-sign-in-x", AUTHORITY, "app", ["scope"])  # type: ignore[arg-type]
    with pytest.raises(SignInRequiredError, match="damaged"):
        user.get_token("scope")
