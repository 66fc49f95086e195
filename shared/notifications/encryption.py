"""Opening the encrypted content of a rich change notification.

The data key is encrypted with RSA-OAEP (SHA-1, MGF1 with SHA-1), the data with AES-256-CBC and PKCS#7 padding. The
initialisation vector is the first 16 bytes of the data key. The signature is HMAC-SHA256 with the same key over the
decoded ciphertext ("Set up change notifications that include resource data",
https://learn.microsoft.com/graph/change-notifications-with-resource-data).
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final, NamedTuple

import pybase64
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from shared.values.errors import MalformedContentError, SignatureMismatchError, WrongKeyError

_KEY_BYTES: Final = 32
_BLOCK_BYTES: Final = 16
# SHA-1 is Graph's choice and cannot be negotiated; inside OAEP its collisions do not matter.
_OAEP: Final = OAEP(mgf=MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303


class Sealed(NamedTuple):
    """`encryptedContent` out of its base64; it is opened in steps, so that many private-key operations run first.

    What a step raises is a subclass of DecryptionError, which all have the same message.
    """

    data_key: bytes
    signature: bytes
    ciphertext: bytes

    @classmethod
    def of(cls, content: Mapping[str, str]) -> "Sealed":
        """Read `data`, `dataKey` and `dataSignature`, each base64; other fields are ignored.

        Raises:
            MalformedContentError: one of them is missing, of another type, or no base64.
        """
        return cls(_field(content, "dataKey"), _field(content, "dataSignature"), _field(content, "data"))

    def unlock(self, private_key: RSAPrivateKey) -> bytes:
        """Decrypt the data key, which takes nearly all of the time.

        Args:
            private_key: of the certificate that `encryptionCertificateId` names.

        Raises:
            WrongKeyError: the data key was not encrypted for it.
        """
        try:
            return private_key.decrypt(self.data_key, _OAEP)
        except ValueError:
            raise WrongKeyError from None

    def open(self, key: bytes) -> bytes:
        """Verify and decrypt the data with what `unlock` gave; returns the plaintext as Graph encrypted it.

        Raises:
            SignatureMismatchError: the data is not what was signed with this key.
            MalformedContentError: the length of the key or of the data, or the padding, is none that Graph makes.
        """
        if len(key) != _KEY_BYTES:
            raise MalformedContentError
        if not hmac.compare_digest(hmac.digest(key, self.ciphertext, hashlib.sha256), self.signature):
            raise SignatureMismatchError
        return _decrypt_cbc(key, self.ciphertext)


def _field(content: Mapping[str, str], name: str) -> bytes:
    try:
        text = content[name]
        if not isinstance(text, str):
            raise MalformedContentError
        return pybase64.b64decode(text, validate=True)
    except (KeyError, TypeError, ValueError):  # binascii.Error is a ValueError
        raise MalformedContentError from None


def _decrypt_cbc(key: bytes, ciphertext: bytes) -> bytes:
    if not ciphertext or len(ciphertext) % _BLOCK_BYTES:
        raise MalformedContentError
    decryptor = Cipher(AES(key), CBC(key[:_BLOCK_BYTES])).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    # Whoever reaches this line knew the key, so the check need not run in constant time.
    count = padded[-1]
    if not 1 <= count <= _BLOCK_BYTES or padded[-count:] != bytes((count,)) * count:
        raise MalformedContentError
    return padded[:-count]
