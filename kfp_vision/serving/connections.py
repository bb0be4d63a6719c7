"""Connections that cannot be held open for nothing: by who never asks, or takes for ever over the headers of a request."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS_TO_ASK = 20  # from the connection, or a request's first byte, to the end of its headers
TOO_SLOW = b"a request's headers must arrive within %d seconds." % SECONDS_TO_ASK
REFUSAL = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(TOO_SLOW), TOO_SLOW)
)


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, but that it ends when no request comes in time, after a 408 where one has begun.

    Uvicorn itself waits for ever for the first request, and for the rest of one whose headers have begun.
    """

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._limit = self.loop.call_later(SECONDS_TO_ASK, self._end, b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lift()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._lift()
        super().on_message_begin()
        self._limit = self.loop.call_later(SECONDS_TO_ASK, self._end, REFUSAL)

    def on_headers_complete(self) -> None:
        self._lift()
        super().on_headers_complete()

    def _lift(self) -> None:
        if self._limit:
            self._limit.cancel()

    def _end(self, words: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(words)
            self.transport.close()
