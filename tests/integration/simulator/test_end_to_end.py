"""From POST /subscriptions to an encrypted notification, with the SDKs that an app would use."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import requests
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from dev.simulator import Kind, Options, Simulator
from tests.integration.simulator.subscriber import Subscriber

USER_CALLS = "users/048c94fb-dda6-48b8-9fc8-6740ee418fb9/communications/callEvents"


def open_by_hand(content: dict[str, str], key: rsa.RSAPrivateKey) -> Any:
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
    secret = key.decrypt(base64.b64decode(content["dataKey"]), oaep)
    data = base64.b64decode(content["data"])
    assert hmac.digest(secret, data, "sha256") == base64.b64decode(content["dataSignature"])
    decryptor = Cipher(algorithms.AES256(secret), modes.CBC(secret[:16])).decryptor()
    padded = decryptor.update(data) + decryptor.finalize()
    unpadder = PKCS7(128).unpadder()
    return json.loads(unpadder.update(padded) + unpadder.finalize())


def test_an_app_with_real_sdks_gets_what_happened(
    sim: Simulator, subscriber: Subscriber, environment: dict[str, str]
) -> None:
    credential = ManagedIdentityCredential()
    with SecretClient(environment["KEY_VAULT_URL"], credential, verify_challenge_resource=False) as vault:
        secret = vault.get_secret(environment["CERTIFICATE_NAME"])
    assert secret.properties.content_type == "application/x-pkcs12"
    assert secret.value is not None
    key, certificate, _ = pkcs12.load_key_and_certificates(base64.b64decode(secret.value), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert isinstance(certificate, x509.Certificate)
    certificate_id = f"{secret.name}/{secret.properties.version}"

    created = requests.post(
        f"{environment['GRAPH_ENDPOINT']}/beta/subscriptions",
        headers={"Authorization": f"Bearer {credential.get_token(environment['GRAPH_ENDPOINT'] + '/.default').token}"},
        json={
            "changeType": "updated",
            "notificationUrl": subscriber.url,
            "lifecycleNotificationUrl": f"{subscriber.url}?kind=lifecycle",
            "resource": f"/{USER_CALLS}",
            "expirationDateTime": (datetime.now(UTC) + timedelta(hours=23)).isoformat(),
            "includeResourceData": True,
            "encryptionCertificate": base64.b64encode(certificate.public_bytes(Encoding.DER)).decode(),
            "encryptionCertificateId": certificate_id,
            "clientState": "a secret",
        },
        timeout=90,
    )
    assert created.status_code == 201, created.text
    assert [urlsplit(entry.path_qs).path for entry in subscriber.handshakes] == ["/api/notifications"] * 2
    assert "%20" in subscriber.handshakes[0].path_qs
    assert "%3A" in subscriber.handshakes[0].path_qs
    assert parse_qs(urlsplit(subscriber.handshakes[1].path_qs).query)["kind"] == ["lifecycle"]

    sim.graph.notify(USER_CALLS, Kind.CALL_STARTED, Options(id="6e1f0a3c-0000-4000-8000-000000000001"))
    sim.graph.drain()

    (collection,) = subscriber.collections
    (item,) = collection["value"]
    assert item["subscriptionId"] == created.json()["id"]
    assert item["clientState"] == "a secret"
    assert item["encryptedContent"]["encryptionCertificateId"] == certificate_id
    assert item["encryptedContent"]["encryptionCertificateThumbprint"] == (
        certificate.fingerprint(hashes.SHA1()).hex().upper()
    )
    content = open_by_hand(item["encryptedContent"], key)
    assert content["eventType"] == "{Microsoft.Communication.CallEventType.CallStarted}"
    assert content["callId"] == "6e1f0a3c-0000-4000-8000-000000000001"

    (token,) = collection["validationTokens"]
    discovery = requests.get(
        f"{environment['LOGIN_ENDPOINT']}/common/v2.0/.well-known/openid-configuration", timeout=90
    ).json()
    signing_key = jwt.PyJWKClient(discovery["jwks_uri"]).get_signing_key_from_jwt(token)
    claims = jwt.decode(token, signing_key.key, algorithms=["RS256"], audience=environment["GRAPH_APP_IDS"])
    assert claims["azp"] == "0bf30f3b-4a52-48df-9a82-234910c4a086"
    assert claims["iss"] == f"https://login.microsoftonline.com/{item['tenantId']}/v2.0"

    (delivery,) = sim.graph.deliveries
    assert delivery.state == "delivered"
    assert [attempt.status for attempt in delivery.attempts] == [202]
