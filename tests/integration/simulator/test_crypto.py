import base64
import hmac
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev.simulator.crypto import KeyCertificate, Recipient, encrypt

OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(plaintext=st.binary(max_size=200))
def test_what_is_encrypted_can_be_opened_with_the_documented_steps(plaintext: bytes, pair: KeyCertificate) -> None:
    content = encrypt(plaintext, Recipient.of(pair, "switchboard/1"))
    key = pair.private_key.decrypt(base64.b64decode(content["dataKey"]), OAEP)
    data = base64.b64decode(content["data"])
    assert len(key) == 32
    assert hmac.digest(key, data, "sha256") == base64.b64decode(content["dataSignature"])
    decryptor = Cipher(algorithms.AES256(key), modes.CBC(key[:16])).decryptor()
    unpadder = PKCS7(128).unpadder()
    padded = decryptor.update(data) + decryptor.finalize()
    assert unpadder.update(padded) + unpadder.finalize() == plaintext


def test_every_item_has_a_key_of_its_own(pair: KeyCertificate) -> None:
    recipient = Recipient.of(pair, "switchboard/1")
    first, second = encrypt(b"same", recipient), encrypt(b"same", recipient)
    assert first["data"] != second["data"]
    keys = [pair.private_key.decrypt(base64.b64decode(item["dataKey"]), OAEP) for item in (first, second)]
    assert keys[0] != keys[1]


def test_an_item_names_the_certificate(pair: KeyCertificate) -> None:
    content = encrypt(b"", Recipient.of(pair, "switchboard/1"))
    assert content["encryptionCertificateId"] == "switchboard/1"
    assert bytes.fromhex(content["encryptionCertificateThumbprint"]) == pair.certificate.fingerprint(hashes.SHA1())


@pytest.mark.parametrize("text", ["", "not base64!", base64.b64encode(b"not a certificate").decode()])
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are the library's
        Recipient.from_der_base64(text, "id")


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="1024 bits"):
        Recipient.of(KeyCertificate.generate(key_size=1024), "id")


def test_the_stored_forms_hold_the_same_key(pair: KeyCertificate) -> None:
    from_pem = load_pem_private_key(pair.pem.encode(), None)
    from_pfx, certificate, _ = pkcs12.load_key_and_certificates(pair.pkcs12, None)
    assert from_pem.public_key() == pair.private_key.public_key() == from_pfx.public_key()  # type: ignore[union-attr]
    assert certificate == pair.certificate
    assert not isinstance(from_pem, ec.EllipticCurvePrivateKey)
    assert json.dumps(pair.der_base64).isascii()
