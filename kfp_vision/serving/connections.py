"""Closes idle connections, and those that send their headers too slowly or without end."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_TIMEOUT_SECONDS = 20  # from connecting, or from a request's first byte, to the end of its headers
MAX_HEADER_BYTES = 1 << 20  # of a request's headers; more than browsers and proxies send, and than asyncio reads at a time


def _response(status: bytes, message: bytes) -> bytes:
    headers = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close" % len(message)
    return b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, headers, message)


TIMEOUT_RESPONSE = _response(
    b"408 Request Timeout", b"a request's headers must arrive within %d seconds." % HEADER_TIMEOUT_SECONDS
)
TOO_LARGE_RESPONSE = _response(
    b"431 Request Header Fields Too Large", b"a request's headers must be at most %d MiB." % (MAX_HEADER_BYTES >> 20)
)


class DeadlineConnection(HttpToolsProtocol):
    """Uvicorn's HTTP connection with a deadline for the headers of the first request and of every started one, and a limit.

    Uvicorn itself waits forever for both, and keeps all that comes. A started request is answered with 408, or 431, before the
    connection closes.
    """

    _deadline: asyncio.TimerHandle | None = None
    _awaits_headers = True
    _header_bytes = 0  # that have come of a request whose headers are not complete

    def connection_made(self, transport: Any) -> None:
        """Starts the deadline for the first request.

        Args:
            transport: the connection's, from asyncio.
        """
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._close, b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the deadline.

        Args:
            exc: why the connection was lost; None if it was closed.
        """
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads what has arrived, and closes the connection if the headers of a request are too large.

        Args:
            data: what has arrived.
        """
        super().data_received(data)
        self._header_bytes = self._header_bytes + len(data) if self._awaits_headers else 0
        if self._header_bytes > MAX_HEADER_BYTES:
            self._close(TOO_LARGE_RESPONSE)

    def on_message_begin(self) -> None:
        """Starts the deadline for the headers of a request."""
        self._cancel_deadline()
        self._awaits_headers, self._header_bytes = True, 0
        super().on_message_begin()
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._close, TIMEOUT_RESPONSE)

    def on_headers_complete(self) -> None:
        """Cancels the deadline."""
        self._cancel_deadline()
        self._awaits_headers = False
        super().on_headers_complete()

    def _cancel_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()

    def _close(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()
