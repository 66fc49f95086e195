"""What can go wrong, and whether trying again can help.

Every error that Switchboard raises on purpose is one of these. A permanent one sends the work at hand to quarantine at
once; one with a ~ is transient, and is raised or put back so that the work is tried again::

    SwitchboardError
        MalformedInputError             bytes from outside do not have the shape they must have
            OversizedBodyError
        TokenRejected                   a validation token fails a check
        DecryptionError                 encrypted content cannot be opened
            MalformedContentError
            WrongKeyError
            SignatureMismatchError
            UnknownCertificateError
        GraphError                      Graph understood the request and will not do it (`values.graph`)
            RequestRejectedError
            UnchangedError
            UnseenError
            LifetimeExceededError
            EndpointValidationError
            PermissionDeniedError
            TranscriptAccessError       an administrator has to allow it
            QuotaExceededError
            NotFoundError
            SubscriptionConflictError
                PathLimitError
        UnexpectedError                 a fault of ours
        ~ UnavailableError              something outside did not answer, or refused for now
            ~ OutOfTimeError
            ~ NoTurnError
            ~ OutcomeUnknownError       the request may have been carried out (`values.graph`)
            ~ CredentialError           Entra ID gave no token (`values.graph`)
                ~ UnauthorizedError
                ~ SignInRequiredError
            ~ SignedInListError         the signed-in user's subscriptions cannot be listed (`values.graph`)
        ~ SettingsError                 app settings are missing or wrong
        ~ DesiredStateError             the file of what to subscribe to is wrong (`subscriptions.desired`)
        ~ NotWholeError                 a list may not be whole (`subscriptions.desired_source`)
        ~ AbandonedError                the platform has used up its tries
        ~ InvocationError               what the platform gets to know of any failure
"""

from typing import ClassVar


class SwitchboardError(Exception):
    """The root. `reason` is a short, stable word for logs, metrics and quarantine; it never carries data."""

    permanent: ClassVar[bool] = True

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def told(self) -> str:
        """What an operator at a terminal is told; unlike the message, it may repeat what they have written."""
        return str(self)


class MalformedInputError(SwitchboardError):
    """Bytes from outside do not have the shape they must have."""


class OversizedBodyError(MalformedInputError):
    """A POST's body holds more than any of Graph's: bytes, separators, items, or elements that are no items."""


class TokenRejected(SwitchboardError):  # noqa: N818 - the name of the contract
    """A validation token is not acceptable; `reason` says which check it failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"validation token rejected: {reason}", reason=reason)


class DecryptionError(SwitchboardError):
    """Encrypted content cannot be opened. Outside, every cause reads the same."""

    reason_of_class: ClassVar[str] = "undecryptable"

    def __init__(self) -> None:
        super().__init__("could not be decrypted", reason=self.reason_of_class)


class MalformedContentError(DecryptionError):
    """A field of the encrypted content is missing, not a string, not base64, or of an impossible length."""

    reason_of_class = "encrypted-content-malformed"


class WrongKeyError(DecryptionError):
    """The data key was not encrypted for this certificate."""

    reason_of_class = "data-key-not-for-this-certificate"


class SignatureMismatchError(DecryptionError):
    """The HMAC over the ciphertext does not match: the content was altered."""

    reason_of_class = "data-signature-mismatch"


class UnknownCertificateError(DecryptionError):
    """The certificate id is not one of ours, or names a version that Key Vault does not have."""

    reason_of_class = "unknown-certificate"


class SettingsError(SwitchboardError):
    """App settings are missing or wrong; the message names every one of them."""

    permanent = False  # the next deployment or settings change mends it; what is queued meanwhile must not be lost

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("app settings need attention:\n" + "\n".join(f"  - {p}" for p in problems), reason="settings")


class UnavailableError(SwitchboardError):
    """Something outside (storage, Key Vault, Entra ID, Graph) did not answer or refused for now.

    `retry_after` is in seconds, as the other side asked for, or None.
    """

    permanent = False

    def __init__(self, what: str, *, reason: str = "unavailable", retry_after: float | None = None) -> None:
        super().__init__(f"{what} is unavailable", reason=reason)
        self.retry_after = retry_after


class OutOfTimeError(UnavailableError):
    """It was not begun, because the time for all of it was over."""

    def __init__(self) -> None:
        super().__init__("time", reason="out-of-time")
        self.args = ("the time of the run was over",)


class NoTurnError(UnavailableError):
    """Nothing is made or deleted in a tenant by two at once: another has the turn, or storage did not give it."""

    def __init__(self, message: str, *, reason: str = "turn") -> None:
        super().__init__("the turn", reason=reason)
        self.args = (message,)


class AbandonedError(SwitchboardError):
    """The platform has used up its tries: the worker ended at each, or storage took no outcome."""

    permanent = False

    def __init__(self) -> None:
        super().__init__("the platform gave the message up", reason="retries-exhausted")


class UnexpectedError(SwitchboardError):
    """An item that meets a fault of ours; once that is mended, it can be replayed. `cause` is the exception's type."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"an unexpected {cause}", reason="unexpected")
        self.cause = cause


class InvocationError(SwitchboardError):
    """What leaves a function that failed: all that the platform gets to know, and sends to Azure Monitor."""

    permanent = False

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(f"{function} failed: {reason}", reason=reason)
