"""Opening encrypted content: what Graph encrypts comes back, and nothing else does."""

import base64
import hmac
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.simulator.crypto import KeyCertificate, Recipient, encrypt
from shared.notifications.encryption import Sealed
from shared.values.errors import DecryptionError, MalformedContentError, SignatureMismatchError, WrongKeyError
from tests.keys import OTHER_PAIR, PAIR

RECIPIENT = Recipient.of(PAIR, "graph/0123")
SHA1 = OAEP(MGF1(hashes.SHA1()), hashes.SHA1(), None)
SHA256 = OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), None)


def sealed(ciphertext: bytes, key: bytes, padding: OAEP = SHA1, signature: bytes | None = None) -> dict[str, str]:
    return {
        "data": base64.b64encode(ciphertext).decode(),
        "dataKey": base64.b64encode(PAIR.private_key.public_key().encrypt(key, padding)).decode(),
        "dataSignature": base64.b64encode(signature or hmac.digest(key, ciphertext, "sha256")).decode(),
    }


def aes(padded: bytes, key: bytes) -> bytes:
    encryptor = Cipher(AES(key), CBC(key[:16])).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def decrypt(content: Mapping[str, str], private_key: RSAPrivateKey) -> bytes:
    """All steps at once."""
    read = Sealed.of(content)
    return read.open(read.unlock(private_key))


@settings(max_examples=50)
@given(st.binary(max_size=5000))
def test_returns_what_was_encrypted(plaintext: bytes) -> None:
    assert decrypt(encrypt(plaintext, RECIPIENT), PAIR.private_key) == plaintext


def test_every_length_of_padding() -> None:
    for length in range(34):
        plaintext = b"\xff" * length
        assert decrypt(encrypt(plaintext, RECIPIENT), PAIR.private_key) == plaintext


def test_a_larger_key() -> None:
    pair = KeyCertificate.generate(key_size=3072)
    assert decrypt(encrypt(b"{}", Recipient.of(pair, "x")), pair.private_key) == b"{}"


def test_data_key_for_another_certificate() -> None:
    with pytest.raises(WrongKeyError):
        decrypt(encrypt(b"{}", RECIPIENT), OTHER_PAIR.private_key)


def test_data_key_with_another_hash() -> None:
    key = os.urandom(32)
    with pytest.raises(WrongKeyError):
        decrypt(sealed(aes(b"\x10" * 16, key), key, SHA256), PAIR.private_key)


@pytest.mark.parametrize("name", ["data", "dataSignature"])
@pytest.mark.parametrize("position", [0, -1])
def test_any_flipped_bit_is_a_signature_mismatch(name: str, position: int) -> None:
    content = encrypt(b'{"id":"1"}' * 10, RECIPIENT)
    altered = bytearray(base64.b64decode(content[name]))
    altered[position] ^= 1
    content[name] = base64.b64encode(altered).decode()
    with pytest.raises(SignatureMismatchError):
        decrypt(content, PAIR.private_key)


def test_a_signature_over_the_base64_text_is_not_one_over_the_data() -> None:
    key = os.urandom(32)
    ciphertext = aes(b"\x10" * 16, key)
    wrong = hmac.digest(key, base64.b64encode(ciphertext), "sha256")
    with pytest.raises(SignatureMismatchError):
        decrypt(sealed(ciphertext, key, signature=wrong), PAIR.private_key)


def test_the_signature_is_checked_before_the_padding() -> None:
    """Bad padding behind a bad signature must not show: that difference is what a padding oracle lives on."""
    key = os.urandom(32)
    ciphertext = aes(b"\x00" * 32, key)
    with pytest.raises(SignatureMismatchError):
        decrypt(sealed(ciphertext, key, signature=b"\x00" * 32), PAIR.private_key)
    with pytest.raises(MalformedContentError):
        decrypt(sealed(ciphertext, key), PAIR.private_key)


@pytest.mark.parametrize(
    ("length", "sealed_up"),
    [
        # Padding that is none: zero, over a block, too little, mixed, huge.
        *(
            (32, partial(aes, padded))
            for padded in (b"\x00" * 16, b"\x11" * 32, b"a" * 15 + b"\x02", b"a" * 14 + b"\x03\x02", b"\xff" * 16)
        ),
        *((length, lambda _: b"\x00" * 16) for length in (0, 16, 24, 31, 33)),  # a data key of the wrong length
        *((32, lambda _, data=data: data) for data in (b"", b"\x00" * 15, b"\x00" * 17)),  # no whole blocks
    ],
)
def test_content_that_no_graph_would_make(length: int, sealed_up: Callable[[bytes], bytes]) -> None:
    key = os.urandom(length)
    with pytest.raises(MalformedContentError):
        decrypt(sealed(sealed_up(key), key), PAIR.private_key)


def test_a_whole_block_of_padding_is_the_empty_plaintext() -> None:
    key = os.urandom(32)
    assert decrypt(sealed(aes(b"\x10" * 16, key), key), PAIR.private_key) == b""


@pytest.mark.parametrize(
    "value",
    [None, 7, True, [], {}, b"aGk=", "not base64!", "aGk", "aGk=\n", " aGk=", "aGkö", "\ud800", ...],
    ids=repr,
)
def test_fields_that_are_missing_or_not_base64(value: object) -> None:
    for name in ("data", "dataKey", "dataSignature"):
        content: dict[str, Any] = encrypt(b"{}", RECIPIENT) | {name: value}
        if value is ...:
            del content[name]
        with pytest.raises(MalformedContentError):
            decrypt(content, PAIR.private_key)


def test_an_empty_data_key() -> None:
    with pytest.raises(WrongKeyError):
        decrypt({**encrypt(b"{}", RECIPIENT), "dataKey": ""}, PAIR.private_key)


def test_every_failure_reads_the_same_outside() -> None:
    texts = {str(leaf()) for leaf in (DecryptionError, *DecryptionError.__subclasses__())}
    assert texts == {"could not be decrypted"}


FIELDS = st.sampled_from(["data", "dataKey", "dataSignature"])


@given(st.dictionaries(FIELDS, st.text(max_size=12) | st.none() | st.integers()))
def test_whatever_comes_there_is_no_other_error(content: dict[str, Any]) -> None:
    with pytest.raises(DecryptionError):
        decrypt(content, PAIR.private_key)
