"""What each error tells whoever has to act on it: operators read the text, and alerts and quarantine the reason."""

from collections.abc import Callable

import pytest

from shared.domain.errors import (
    AbandonedError,
    DecryptionError,
    MalformedContentError,
    MalformedInputError,
    SettingsError,
    SignatureMismatchError,
    SwitchboardError,
    TokenRejected,
    UnavailableError,
    UnexpectedError,
    UnknownCertificateError,
    WrongKeyError,
)

UNREADABLE = "could not be decrypted"  # whatever the cause: outside, all read the same


@pytest.mark.parametrize(
    ("make", "reason", "text", "permanent"),
    [
        (lambda: MalformedInputError("not JSON", reason="not-json"), "not-json", "not JSON", True),
        (lambda: TokenRejected("expired"), "expired", "validation token rejected: expired", True),
        (DecryptionError, "undecryptable", UNREADABLE, True),
        (MalformedContentError, "encrypted-content-malformed", UNREADABLE, True),
        (WrongKeyError, "data-key-not-for-this-certificate", UNREADABLE, True),
        (SignatureMismatchError, "data-signature-mismatch", UNREADABLE, True),
        (UnknownCertificateError, "unknown-certificate", UNREADABLE, True),
        (lambda: SettingsError(["A", "B"]), "settings", "app settings need attention:\n  - A\n  - B", False),
        (lambda: UnavailableError("Graph"), "unavailable", "Graph is unavailable", False),
        (lambda: UnavailableError("Graph", reason="throttled"), "throttled", "Graph is unavailable", False),
        (AbandonedError, "retries-exhausted", "the platform gave the message up", False),
        (lambda: UnexpectedError("KeyError"), "unexpected", "an unexpected KeyError", True),
    ],
)
def test_what_an_error_tells(make: Callable[[], SwitchboardError], reason: str, text: str, permanent: bool) -> None:
    error = make()
    assert (error.reason, str(error), error.permanent) == (reason, text, permanent)


def test_what_else_some_of_them_carry() -> None:
    assert UnavailableError("Graph", retry_after=3.0).retry_after == 3.0
    assert UnavailableError("Graph").retry_after is None
    assert SettingsError(["A", "B"]).problems == ["A", "B"]
    assert UnexpectedError("KeyError").cause == "KeyError"
