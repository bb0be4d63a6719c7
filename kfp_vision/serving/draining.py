"""Drains the server on SIGTERM: it turns unready, finishes requests in flight, and exits."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

LINGER_SECONDS = 1.0
DRAIN_SECONDS = 30
POLL_SECONDS = 0.02  # seconds


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, except that it closes no connection on which a request may be on its way.

    Uvicorn stops listening at once, which resets connections that the kernel has already accepted, and closes idle
    keep-alive connections. This server first turns unready and ends each connection with its next response, while it still
    accepts new ones; only then does it stop listening.

    Args:
        config: uvicorn's configuration.
        on_shutdown: called when the shutdown begins, to turn the server unready.
        on_answered: called once all requests are answered. What comes after `run` may never be: uvicorn ends it with the signal
            that it received.
        before_startup: awaited before anything else, on the loop of the server; None for nothing. An InputError ends the
            server.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_shutdown: Callable[[], None],
        on_answered: Callable[[], None],
        before_startup: Callable[[], Awaitable[None]] | None = None,
    ):
        super().__init__(config)
        self._on_shutdown, self._on_answered, self._before_startup = on_shutdown, on_answered, before_startup

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to answer.

        Args:
            sockets: to listen on.
        """
        if self._before_startup:
            await self._before_startup()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains the connections, then shuts uvicorn down.

        Args:
            sockets: those it listens on.
        """
        self._on_shutdown()
        if signal.SIGTERM in self._captured_signals:  # not for Ctrl-C, where a person waits
            self._close_after_responses()
            await self._wait_until(lambda: not self._connections)
        await self._stop_listening(sockets or [])
        # A connection that was just accepted may not have sent its request yet.
        await self._wait_until(lambda: all(connection.cycle for connection in self._connections))
        await super().shutdown(sockets)
        self._on_answered()

    @property
    def _connections(self) -> set[Any]:
        """The open connections; `cycle` of each is its last request and response."""
        return self.server_state.connections

    def _close_after_responses(self) -> None:
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for connection in self._connections:
            if connection.cycle and not connection.cycle.response_complete:
                connection.shutdown()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Takes over the connections that the kernel has accepted, and stops listening before it accepts more."""
        accepted = []
        for listening in sockets:
            listening.setblocking(False)
            with contextlib.suppress(OSError):  # raised when no more are pending
                while True:
                    accepted.append(listening.accept()[0])
        for server in self.servers:
            server.close()
        for connection in accepted:
            with contextlib.suppress(OSError):  # the client has disconnected meanwhile
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Any:
        state = self.lifespan.state
        return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state=state)  # type: ignore[call-arg]

    async def _wait_until(self, is_done: Callable[[], bool]) -> None:
        """Waits until `is_done`, for `LINGER_SECONDS` at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LINGER_SECONDS
        while not is_done() and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(POLL_SECONDS)
