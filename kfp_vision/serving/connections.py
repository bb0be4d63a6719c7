"""Closes idle connections and those that send their headers too slowly."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_TIMEOUT_SECONDS = 20  # from connecting, or from a request's first byte, to the end of its headers
TIMEOUT_MESSAGE = b"a request's headers must arrive within %d seconds." % HEADER_TIMEOUT_SECONDS
TIMEOUT_RESPONSE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(TIMEOUT_MESSAGE), TIMEOUT_MESSAGE)
)


class DeadlineConnection(HttpToolsProtocol):
    """Uvicorn's HTTP connection with a deadline for the headers of the first request and of every started one.

    Uvicorn itself waits forever for both. A started request is answered with 408 before the connection closes.
    """

    _deadline: asyncio.TimerHandle | None = None

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

    def on_message_begin(self) -> None:
        """Starts the deadline for the headers of a request."""
        self._cancel_deadline()
        super().on_message_begin()
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._close, TIMEOUT_RESPONSE)

    def on_headers_complete(self) -> None:
        """Cancels the deadline."""
        self._cancel_deadline()
        super().on_headers_complete()

    def _cancel_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()

    def _close(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()
