"""The encryption certificate in Key Vault.

A Key Vault certificate is read as the secret of the same name, whose value holds certificate and private key, as
PKCS#12 in base64 or as PEM ("About Azure Key Vault certificates", Composition of a certificate,
https://learn.microsoft.com/azure/key-vault/certificates/about-certificates).
"""

import asyncio
import re
import time
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.core.rest import HttpRequest
from azure.keyvault.secrets import KeyVaultSecret
from azure.keyvault.secrets.aio import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)

from shared.settings import is_loopback
from shared.values.endpoint import EncryptionCertificate
from shared.values.errors import UnavailableError, UnknownCertificateError

_CONNECT_SECONDS: Final = 3
_ANSWER_SECONDS: Final = 5  # of each of three tries
_VERSION: Final = re.compile(r"[0-9a-f]{32}")
# Whoever can have notifications accepted can make up versions: so many are read within so many seconds at most.
_MOST_READS: Final = 60
_READS_SECONDS: Final = 60.0
# That there is no such version is not true for ever: a certificate that was deleted can be recovered, and after a
# failover the other region may lag behind.
_REFUSED_SECONDS: Final = 60.0
_MOST_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class CertificateDetails:
    """A version of the certificate. `key_size` is in bits."""

    id: str
    key_size: int
    not_before: datetime
    expires: datetime


class _Read(NamedTuple):
    """A version that was asked for, and when."""

    task: asyncio.Task[RSAPrivateKey]
    begun: float


class KeyVaultCertificates:
    """The versions of one certificate; each is fetched and parsed once (parsing costs about 100 decryptions)."""

    def __init__(
        self,
        vault_url: str,
        name: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        most_remembered: int = _MOST_REMEMBERED,
    ) -> None:
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow to import, needed here alone

        self._name = name
        self._credential = DefaultAzureCredential()
        self._client = SecretClient(
            vault_url,
            self._credential,
            # The challenge must name the vault's own domain; a simulator on this machine has none.
            verify_challenge_resource=not is_loopback(vault_url),
            retry_total=2,
            retry_backoff_factor=0.2,
            connection_timeout=_CONNECT_SECONDS,
            read_timeout=_ANSWER_SECONDS,
        )
        self._monotonic = monotonic
        self._most_remembered = most_remembered
        self._keys: dict[str, _Read] = {}
        self._reads: deque[float] = deque(maxlen=_MOST_READS)

    async def private_key(self, certificate_id: str) -> RSAPrivateKey:
        """The private key of the version that a notification names.

        Args:
            certificate_id: `{name}/{version}`, in whichever case: Graph has been seen to answer in capitals. Only the
                configured name is ever fetched, whatever this says.

        Raises:
            UnknownCertificateError: it is not an id of ours, or Key Vault has no such version.
            UnavailableError: Key Vault did not answer, or refused; or it has been asked for too many versions just now.
        """
        name, _, version = certificate_id.lower().partition("/")
        if name != self._name.lower() or _VERSION.fullmatch(version) is None:
            raise UnknownCertificateError
        read = self._keys.get(version)
        if read is None or not _is_lasting(read, self._monotonic()):
            # A read after a transient failure is not counted again: else the limit would prolong an outage.
            if read is None or isinstance(_refusal(read.task), UnknownCertificateError):
                self._make_room()
            read = self._keys[version] = _Read(asyncio.create_task(self._load(version)), self._monotonic())
        return await asyncio.shield(read.task)  # a caller that is cancelled must not fail the others

    def _make_room(self) -> None:
        """Count a read, and make room for its answer: versions that do not exist are forgotten before keys.

        Raises:
            UnavailableError: there have been too many reads within a minute.
        """
        now = self._monotonic()
        if len(self._reads) == _MOST_READS and (left := self._reads[0] + _READS_SECONDS - now) > 0:
            raise UnavailableError("Key Vault", reason="key-vault-paced", retry_after=left)
        self._reads.append(now)
        if len(self._keys) >= self._most_remembered:
            refused = [
                version for version, (task, _) in self._keys.items() if task.done() and _refusal(task) is not None
            ]
            for version in refused[: self._most_remembered // 2] or list(self._keys)[:1]:
                del self._keys[version]

    async def current(self) -> EncryptionCertificate:
        """The newest version, for new subscriptions.

        Raises:
            UnavailableError: Key Vault did not answer, or has no certificate that can be used.
        """
        try:
            secret = await self._get(None)
            certificate, _ = await asyncio.to_thread(_parse, secret)
        except UnknownCertificateError:
            raise UnavailableError(f"certificate {self._name} in Key Vault", reason="no-usable-certificate") from None
        der = certificate.public_bytes(Encoding.DER)
        return EncryptionCertificate(
            id=f"{self._name}/{secret.properties.version}", der_base64=b64encode(der).decode("ascii")
        )

    async def exists(self) -> bool:
        """Whether there is an enabled version. No key is fetched for that.

        Source: "Get Secret Versions" (https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret-versions).

        Raises:
            UnavailableError: Key Vault did not answer, or refused.
        """
        try:
            async for version in self._client.list_properties_of_secret_versions(self._name):
                if version.enabled:
                    return True
        except ResourceNotFoundError:
            return False
        except HttpResponseError as error:
            raise UnavailableError("Key Vault", reason=f"key-vault-{error.status_code}") from error
        except AzureError as error:
            raise UnavailableError("Key Vault", reason="key-vault-no-answer") from error
        return False

    async def inspect(self) -> CertificateDetails:
        """Size and dates of the newest version.

        Raises:
            UnknownCertificateError: Key Vault has none, or one without an RSA key.
            UnavailableError: Key Vault did not answer, or refused.
        """
        secret = await self._get(None)
        certificate, key = await asyncio.to_thread(_parse, secret)
        return CertificateDetails(
            id=f"{self._name}/{secret.properties.version}",
            key_size=key.key_size,
            not_before=certificate.not_valid_before_utc,
            expires=certificate.not_valid_after_utc,
        )

    async def policy(self) -> Mapping[str, Any] | None:
        """The certificate's policy; None where this identity may not read it.

        Source: "Get Certificate Policy"
        (https://learn.microsoft.com/rest/api/keyvault/certificates/get-certificate-policy/get-certificate-policy).

        Raises:
            UnavailableError: Key Vault did not answer.
        """
        request = HttpRequest("GET", f"/certificates/{self._name}/policy")
        try:
            response = await self._client.send_request(request)
        except AzureError as error:
            raise UnavailableError("Key Vault", reason="key-vault-no-answer") from error
        policy = response.json() if response.status_code == HTTPStatus.OK else None
        return policy if isinstance(policy, Mapping) else None

    async def close(self) -> None:
        """Give up what is being read, and close the connections."""
        reading = [read.task for read in self._keys.values()]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await self._client.close()
        await self._credential.close()

    async def _load(self, version: str) -> RSAPrivateKey:
        secret = await self._get(version)
        _, key = await asyncio.to_thread(_parse, secret)
        return key

    async def _get(self, version: str | None) -> KeyVaultSecret:
        try:
            return await self._client.get_secret(self._name, version)
        except ResourceNotFoundError:
            raise UnknownCertificateError from None
        except HttpResponseError as error:
            raise UnavailableError("Key Vault", reason=f"key-vault-{error.status_code}") from error
        except AzureError as error:
            raise UnavailableError("Key Vault", reason="key-vault-no-answer") from error


def _refusal(task: "asyncio.Task[RSAPrivateKey]") -> BaseException | None:
    """Why a task has no key; None where it has one."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _is_lasting(read: _Read, now: float) -> bool:
    """Whether its answer stands: a key, one that is still to come, or for a while that there is no such version."""
    if not read.task.done() or (refusal := _refusal(read.task)) is None:
        return True
    return isinstance(refusal, UnknownCertificateError) and now - read.begun < _REFUSED_SECONDS


def _parse(secret: KeyVaultSecret) -> tuple[x509.Certificate, RSAPrivateKey]:
    """Certificate and key of a secret in either format.

    Raises:
        UnknownCertificateError: it is neither, or holds no RSA key with its certificate.
    """
    value = secret.value or ""
    try:
        if "-----BEGIN" in value:
            pem = value.encode("ascii")
            key: Any = load_pem_private_key(pem, None)
            certificates = x509.load_pem_x509_certificates(pem)
        else:
            bundle = pkcs12.load_pkcs12(b64decode(value), None)
            key = bundle.key
            certificates = [entry.certificate for entry in (bundle.cert, *bundle.additional_certs) if entry is not None]
    except (ValueError, TypeError):
        raise UnknownCertificateError from None
    if not isinstance(key, RSAPrivateKey):
        raise UnknownCertificateError
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for certificate in certificates:  # those of the authorities that issued it may come with it
        if certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public:
            return certificate, key
    raise UnknownCertificateError
