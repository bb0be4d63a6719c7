"""Closes idle connections and those that send their headers too slowly."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS_TO_ASK = 20  # from connecting, or from a request's first byte, to the end of its headers
TOO_SLOW = b"a request's headers must arrive within %d seconds." % SECONDS_TO_ASK
REFUSAL = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(TOO_SLOW), TOO_SLOW)
)


class Connection(HttpToolsProtocol):
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
        self._deadline = self.loop.call_later(SECONDS_TO_ASK, self._close, b"")

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
        self._deadline = self.loop.call_later(SECONDS_TO_ASK, self._close, REFUSAL)

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
