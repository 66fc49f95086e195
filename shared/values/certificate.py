"""The public certificate that Graph encrypts resource data for."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EncryptionCertificate:
    """The public certificate that Graph encrypts resource data for.

    `id` is ``{name}/{version}`` in Key Vault; `der_base64` is the X.509 certificate, DER, base64, on one line.
    """

    id: str
    der_base64: str = field(repr=False)
