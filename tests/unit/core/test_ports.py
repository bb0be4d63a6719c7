"""Ports are taken to serve on, or what is wrong with them is said in one line."""

import socket

import pytest

from kfp_vision.core import ports
from kfp_vision.core.errors import FieldError, InputError

HOST = "127.0.0.1"


def test_a_free_port_is_bound_and_accepts_connections_once_it_listens():
    with ports.bind(HOST, 0) as bound:
        address = bound.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        ports.listen(bound)
        socket.create_connection(address).close()


def test_a_port_that_listens_cannot_be_had():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"the port must be free; got {HOST}:{port} \(Addr.* with --grpc-port\."):
            ports.bind(HOST, port, "--grpc-port")


def test_of_two_that_bind_a_port_only_one_listens():
    with ports.bind(HOST, 0) as one, ports.bind(HOST, one.getsockname()[1]) as other:
        ports.listen(one)
        with pytest.raises(InputError, match=r"the port must be free; got .* \(Address already in use\)"):
            ports.listen(other)


@pytest.mark.parametrize("port", [-1, 65_536, 10**30])
def test_a_number_that_is_no_port_is_rejected(port):
    with pytest.raises(FieldError, match=f"--grpc-port must be a number from 0 to 65535; got {port}. Choose "):
        ports.bind(HOST, port, "--grpc-port")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "::1", "192.0.2.1", "a" * 70, "a..b"])  # RFC 2606, RFC 5737
def test_the_host_is_named_if_it_is_the_reason(host):
    with pytest.raises(FieldError, match=rf"--host must be a name or an IPv4 address of this machine; got {host} \("):
        ports.bind(host, 0)
