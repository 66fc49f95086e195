"""A port that stays taken while nobody listens on it."""

import socket
import sys

import pytest

from dev.ports import HOST, held_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a port without listening")


def is_free(port: int) -> bool:
    with socket.socket() as other:
        try:
            other.bind((HOST, port))
        except OSError:
            return False
        return True


def test_it_is_given_to_nobody_until_the_end() -> None:
    with held_port() as port, held_port() as second:
        assert port != second
        assert not is_free(port)
    assert is_free(port)


def test_its_server_can_listen_end_and_listen_again() -> None:
    with held_port() as port:
        for _ in range(2):
            with (
                socket.create_server((HOST, port)) as server,
                socket.create_connection((HOST, port)) as caller,
                server.accept()[0] as answerer,
            ):
                answerer.sendall(b"here")
                assert caller.recv(4) == b"here"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, port))
            assert not is_free(port)
