"""The emulator's life: what it keeps, when it ends, whom it lets in."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueClient, QueueServiceClient

from dev.azurite import Azurite, AzuriteError, Ports, TlsFiles
from dev.ports import HOST
from dev.simulator.tls import CertificateAuthority
from dev.simulator.tokens import SigningKey, app_claims

TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
APP = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"


class BearerToken:
    """A credential with one token, as Entra ID would issue it to a managed identity."""

    def __init__(self, audience: str) -> None:
        now = datetime.now(UTC)
        claims = app_claims(
            audience=audience, caller=APP, tenant_id=TENANT, now=now, version=1, lifetime=timedelta(hours=1)
        )
        self._token = AccessToken(SigningKey.generate().sign(claims), int(now.timestamp()) + 3600)

    def get_token(self, *scopes: str, **_options: object) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        return self._token


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


class TestShared:
    """The emulator that all tests share."""

    def test_queues_and_blobs_over_one_connection_string(
        self, azurite: Azurite, unique_name: Callable[[str], str]
    ) -> None:
        with QueueClient.from_connection_string(azurite.connection_string, unique_name("queue")) as queue:
            queue.create_queue()
            queue.send_message("hello", time_to_live=-1)
            message = queue.receive_message()
            assert message is not None
            assert message.content == "hello"
        with BlobServiceClient.from_connection_string(azurite.connection_string) as blobs:
            container = blobs.create_container(unique_name("container"))
            container.upload_blob("name", b"content")
            assert container.download_blob("name").readall() == b"content"


class TestLife:
    def test_data_and_address_outlive_an_outage_and_a_restart_until_the_end_of_the_block(self, tmp_path: Path) -> None:
        with Azurite.start(tmp_path) as azurite:
            assert all(is_listening(port) for port in azurite.ports)
            before = azurite.connection_string
            with QueueClient.from_connection_string(before, "kept", retry_total=0) as queue:
                azurite.kill()
                with pytest.raises(ServiceRequestError):
                    queue.create_queue()
                azurite.restart()
                queue.create_queue()
                queue.send_message("hello")
                azurite.restart()
                message = queue.receive_message()
            assert message is not None
            assert message.content == "hello"
            assert azurite.connection_string == before
        assert not any(is_listening(port) for port in azurite.ports)
        azurite.stop()
        azurite.kill()

    @pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
    def test_it_ends_with_its_parent(self, tmp_path: Path) -> None:
        script = (
            "import pathlib, sys; from dev.azurite import Azurite\n"
            "with Azurite.start(pathlib.Path(sys.argv[1])) as azurite:\n"
            "    print(azurite.ports.queue, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        ) as parent:
            assert parent.stdout is not None
            port = int(parent.stdout.readline())
            assert is_listening(port)
            parent.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not is_listening(port))

    def test_a_port_in_use_is_said_in_azurites_own_words(self, tmp_path: Path) -> None:
        with socket.create_server((HOST, 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(AzuriteError, match=f"EADDRINUSE.*{port}"), Azurite.start(tmp_path, ports=Ports(port)):
                pass


class TestIdentity:
    """Over HTTPS, with bearer tokens."""

    def test_takes_tokens_for_storage_and_no_others(self, tmp_path: Path) -> None:
        authority = CertificateAuthority(tmp_path)
        authority.server_context()
        server = tmp_path / "server.pem"
        trusted = str(authority.bundle())
        with Azurite.start(tmp_path / "data", tls=TlsFiles(server, server)) as azurite:
            for_storage, for_graph = (
                BearerToken("https://storage.azure.com"),
                BearerToken("https://graph.microsoft.com"),
            )
            with QueueServiceClient(azurite.queue_url, for_storage, connection_verify=trusted) as service:
                service.create_queue("by-identity")
                assert [queue.name for queue in service.list_queues()] == ["by-identity"]
            with BlobServiceClient(azurite.blob_url, for_storage, connection_verify=trusted) as blobs:
                blobs.create_container("by-identity")
            with (
                QueueServiceClient(azurite.queue_url, for_graph, connection_verify=trusted) as service,
                pytest.raises(ClientAuthenticationError, match="audience"),
            ):
                service.create_queue("by-nobody")
            assert azurite.queue_url.startswith("https://")
