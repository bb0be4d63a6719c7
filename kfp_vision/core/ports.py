"""Takes a port of this machine to serve on, or says in one line why it cannot be had."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from kfp_vision.core.errors import FieldError, InputError

# What the host is the reason of, whatever the port: no address of this machine, or not one of IPv4.
ABOUT_THE_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """Binds a socket, which does not listen yet.

    Another process can bind the same port until one of them listens.

    Args:
        host: name or IPv4 address of this machine.
        port: 0 for a free one.
        option: of the command line, that sets the port.

    Returns:
        The socket.

    Raises:
        FieldError: The host is not of this machine.
        InputError: The port is taken, or may not be.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        with _in_one_line(host, port, option):
            listening.bind((host, port))
    except InputError:
        listening.close()
        raise
    return listening


def listen(bound: socket.socket, option: str = "--port") -> None:
    """Lets a socket of `bind` listen.

    Args:
        bound: the socket.
        option: as of `bind`.

    Raises:
        InputError: Another process has bound the port as well, and listens.
    """
    host, port = bound.getsockname()
    with _in_one_line(host, port, option):
        bound.listen()


def taken(host: str, port: int, reason: object, option: str = "--port") -> InputError:
    """Returns the error for a port that cannot be had.

    Args:
        host: as of `bind`.
        port: the port.
        reason: words of the system.
        option: as of `bind`.
    """
    return InputError("the port must be free", f"{host}:{port} ({reason})", f"Choose another one with {option}.")


@contextmanager
def _in_one_line(host: str, port: int, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, UnicodeError) as error:  # the last ones: of a number, a name that none can be
        if isinstance(error, OverflowError):
            raise FieldError(f"{option} must be a number from 0 to 65535", port, "Choose 8090, for example.") from None
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", 0) in ABOUT_THE_HOST:
            remedy = "Set it to 127.0.0.1 for this machine only, to 0.0.0.0 for access from the network."
            raise FieldError("--host must be a name or an IPv4 address of this machine", f"{host} ({reason})", remedy) from None
        raise taken(host, port, reason, option) from None
