"""What parses bytes from outside, as targets for fuzzing: whatever comes, it is taken or refused with a clear error.

    python -m dev.fuzz body --seconds 60

runs one target under atheris (coverage-guided; `uv pip install atheris`) and adds what reaches new code to
tests/corpus/{target}. The tests replay that corpus, and let hypothesis vary it.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from shared.notifications.collection import ClientStates, parse_collection
from shared.notifications.encryption import Sealed
from shared.notifications.events import event_of
from shared.notifications.http_answer import handshake
from shared.notifications.tokens import PublishedKey, validate
from shared.values.envelope import RawMessage, pack, parse_envelope
from shared.values.errors import MalformedInputError, SwitchboardError
from shared.values.items import parse_item
from shared.values.message_text import QUEUE_MESSAGE_BYTES, base64_bytes

CORPUS: Final = Path(__file__).parents[1] / "tests" / "corpus"
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def _key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def body(data: bytes) -> None:
    """The body of a POST, as far as the raw messages."""
    collection = parse_collection(data, ClientStates(("secret",)))
    collection.validation_tokens(200)
    raws = [bytes(raw) for raw in collection.raws]
    assert len(raws) == collection.count
    for raw in raws:
        with suppress(MalformedInputError):
            notification = parse_item(raw).notification
            _ = notification.tenant, notification.needs_token
            assert notification.queues
    for message in pack(raws, delivery_id="d" * 32, received=_NOW, traceparent="00-t"):
        put = message.ticket(message.claim_name("q")) if message.needs_claim_check else message
        assert base64_bytes(len(put.body)) <= QUEUE_MESSAGE_BYTES
        assert parse_envelope(message.body).notifications


def token(data: bytes) -> None:
    """A validation token; none that a fuzzer finds is genuine."""
    validate(
        data.decode("utf-8", "surrogateescape"),
        signing_keys={"k": [PublishedKey(_key().public_key())]},
        audiences=["a"],
        tenants=["t"],
        now=_NOW,
    )
    raise AssertionError("a forged token was accepted")


def content(data: bytes) -> None:
    """An item with encrypted content, as far as its plaintext; none is encrypted for this key."""
    notification = parse_item(data).notification
    if notification.certificate_id is None:
        return
    sealed = Sealed.of(notification.encrypted_content)
    sealed.open(sealed.unlock(_key()))
    raise AssertionError("what nobody encrypted was decrypted")


def plaintext(data: bytes) -> None:
    """Decrypted content, as far as the event."""
    item = parse_item(b'{"subscriptionId":"s","resource":"users/u/communications/callEvents","changeType":"created"}')
    event = event_of(item, data, fallback_id="f", received=_NOW, traceparent="00-t")
    assert json.loads(event.to_json())["id"]


def basic(data: bytes) -> None:
    """A basic notification, as far as the event."""
    if _is_text(data):
        event = event_of(parse_item(data), None, fallback_id="f", received=_NOW, traceparent="00-t")
        assert json.loads(event.to_json())["id"]


def _is_text(data: bytes) -> bool:
    """Whether it is UTF-8, as everything is that got past `parse_collection`."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def envelope(data: bytes) -> None:
    """A raw message off its queue, and back."""
    found = parse_envelope(data)
    assert parse_envelope(RawMessage.of(found).body).id == found.id


def handshake_token(data: bytes) -> None:
    """The query of a validation handshake."""
    text = data.decode("utf-8", "replace")
    answer = handshake(text)
    assert answer.status in {200, 400}
    assert answer.status == 400 or answer.body == text
    assert "<" not in answer.body


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "body": body,
    "token": token,
    "content": content,
    "plaintext": plaintext,
    "basic": basic,
    "envelope": envelope,
    "handshake": handshake_token,
}


def attempt(target: str, data: bytes) -> None:
    """Give a target some bytes; its own errors are an outcome like any other.

    Raises:
        Exception: anything else, which is what fuzzing looks for.
    """
    try:
        TARGETS[target](data)
    except SwitchboardError:
        return


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(prog="python -m dev.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    atheris = _atheris()
    for name in [name for name in sys.modules if name.startswith(("shared.", "jwt."))]:
        for function in vars(sys.modules[name]).copy().values():
            if inspect.isfunction(function):
                atheris.instrument_func(function)
    folder = CORPUS / arguments.target
    folder.mkdir(parents=True, exist_ok=True)
    options = [sys.argv[0], str(folder), f"-max_total_time={arguments.seconds}", "-max_len=4096", "-timeout=5"]
    atheris.Setup(options, lambda data: attempt(arguments.target, data))
    atheris.Fuzz()


def _atheris() -> Any:
    try:
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: PLC0415 - heavy, and not on every platform
    except ModuleNotFoundError:
        sys.exit("atheris is not installed: uv pip install atheris")
    return atheris


if __name__ == "__main__":
    main()
