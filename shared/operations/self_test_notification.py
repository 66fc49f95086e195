"""Notifications of our own, by which Switchboard tests itself.

Two are sent, because only Graph can get the validation token that a rich notification needs. The basic one is posted to
the endpoint as Graph would and proves address, clientState, queues and functions; the encrypted one is put on the raw
queue and proves certificate, Key Vault and decryption. Both end on a queue of their own, where no consumer sees them.
"""

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from shared.values.endpoint import EncryptionCertificate
from shared.values.errors import UnknownCertificateError
from shared.values.resources import SELF_TEST

_ODATA_TYPE: Final = "#switchboard.selfTest"
_BLOCK_BITS: Final = 128
_OAEP: Final = OAEP(mgf=MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303 - Graph's choice


@dataclass(frozen=True, slots=True)
class SelfTestNotification:
    """A change notification that carries `id` in its data and is recognised by its resource."""

    id: str
    tenant_id: str
    client_state: str

    def basic(self) -> bytes:
        """As JSON, with the data in the clear."""
        return msgspec.json.encode(self._fields() | {"resourceData": self._data()})

    def rich(self, certificate: EncryptionCertificate) -> bytes:
        """As JSON, with the data encrypted for a certificate.

        Raises:
            UnknownCertificateError: it is no RSA certificate.
        """
        content = encrypt(msgspec.json.encode(self._data()), certificate)
        return msgspec.json.encode(self._fields() | {"encryptedContent": content})

    def _data(self) -> dict[str, str]:
        return {"@odata.type": _ODATA_TYPE, "id": self.id}

    def _fields(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "subscriptionId": self.id,
            "tenantId": self.tenant_id,
            "clientState": self.client_state,
            "changeType": SELF_TEST.change_type,
            "resource": f"switchboard/selfTest/{self.id}",
        }


def encrypt(plaintext: bytes, certificate: EncryptionCertificate) -> Mapping[str, str]:
    """`encryptedContent` as Graph makes it.

    Source: "Set up change notifications that include resource data"
    (https://learn.microsoft.com/graph/change-notifications-with-resource-data).

    Raises:
        UnknownCertificateError: it is no RSA certificate.
    """
    public_key = x509.load_der_x509_certificate(b64decode(certificate.der_base64)).public_key()
    if not isinstance(public_key, RSAPublicKey):
        raise UnknownCertificateError
    key = os.urandom(32)
    padder = padding.PKCS7(_BLOCK_BITS).padder()
    encryptor = Cipher(AES(key), CBC(key[:16])).encryptor()
    data = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    return {
        "data": b64encode(data).decode(),
        "dataKey": b64encode(public_key.encrypt(key, _OAEP)).decode(),
        "dataSignature": b64encode(hmac.digest(key, data, hashlib.sha256)).decode(),
        "encryptionCertificateId": certificate.id,
    }
