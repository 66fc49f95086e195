"""Certificates, and the encryption of resource data as Microsoft Graph performs it. Needs no server.

Source: Graph, "Set up change notifications that include resource data (rich notifications)".
"""

import base64
import hmac
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Not a choice: Graph fixes SHA-1 for both OAEP and MGF1.
_OAEP: Final = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
_BLOCK: Final = 16
_KEY_BYTES: Final = 32


@dataclass(frozen=True)
class KeyCertificate:
    """A self-signed RSA certificate together with its private key."""

    private_key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @classmethod
    def generate(
        cls,
        common_name: str = "switchboard",
        *,
        key_size: int = 2048,
        private_key: rsa.RSAPrivateKey | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> "KeyCertificate":
        """Make a certificate, for a new key unless one is given; by default valid for a year from an hour ago."""
        key = private_key or rsa.generate_private_key(public_exponent=65537, key_size=key_size)
        begin = not_before or datetime.now(UTC) - timedelta(hours=1)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(not_after or begin + timedelta(days=365))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @cached_property
    def der_base64(self) -> str:
        """The public certificate as a subscription's `encryptionCertificate` carries it."""
        return base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()

    @cached_property
    def pkcs12(self) -> bytes:
        """Key and certificate as a PFX without a password, the form in which Key Vault hands them out."""
        return pkcs12.serialize_key_and_certificates(
            b"switchboard", self.private_key, self.certificate, None, serialization.NoEncryption()
        )

    @cached_property
    def pem(self) -> str:
        """PKCS#8 key and certificate in PEM armour, Key Vault's other form."""
        key = self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (key + self.certificate.public_bytes(serialization.Encoding.PEM)).decode()


@dataclass(frozen=True)
class Recipient:
    """Whom resource data is encrypted for: what a subscription says about its certificate."""

    public_key: rsa.RSAPublicKey
    thumbprint: str
    certificate_id: str

    @classmethod
    def from_der_base64(cls, encryption_certificate: str, certificate_id: str) -> "Recipient":
        """Read a subscription's `encryptionCertificate` (base64 of DER X.509, RSA 2,048 to 4,096 bits).

        Raises:
            ValueError: not base64, not a certificate, or not such a key.
        """
        der = base64.b64decode(encryption_certificate, validate=True)
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("the certificate's key is not RSA")  # noqa: TRY004 - one kind of error for the caller
        if not 2048 <= key.key_size <= 4096:
            raise ValueError(f"the certificate's key has {key.key_size} bits")
        thumbprint = certificate.fingerprint(hashes.SHA1()).hex().upper()
        return cls(key, thumbprint, certificate_id)

    @classmethod
    def of(cls, pair: KeyCertificate, certificate_id: str) -> "Recipient":
        """The recipient that holds `pair`."""
        return cls.from_der_base64(pair.der_base64, certificate_id)


def encrypt(plaintext: bytes, recipient: Recipient) -> dict[str, str]:
    """Encrypt resource data as Graph does, under a fresh key; the result is a `changeNotificationEncryptedContent`."""
    key = os.urandom(_KEY_BYTES)
    fill = _BLOCK - len(plaintext) % _BLOCK
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(key[:_BLOCK])).encryptor()
    data = encryptor.update(plaintext + bytes([fill]) * fill) + encryptor.finalize()
    return {
        "data": base64.b64encode(data).decode(),
        "dataSignature": base64.b64encode(hmac.digest(key, data, sha256)).decode(),
        "dataKey": base64.b64encode(recipient.public_key.encrypt(key, _OAEP)).decode(),
        "encryptionCertificateId": recipient.certificate_id,
        "encryptionCertificateThumbprint": recipient.thumbprint,
    }
