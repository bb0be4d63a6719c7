"""A server that leaves without losing a request, when it is told to with SIGTERM."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

SECONDS_TO_LINGER = 1.0
SECONDS_TO_DRAIN = 30
MOMENT = 0.02  # seconds


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, but that no connection is cut while a request may be on its way.

    Uvicorn stops listening at once, which resets connections that the kernel has accepted already, and closes those that
    wait for their next request. Here readiness ends first, and each answer says that its connection ends with it. Meanwhile
    whoever connects is still answered. Only then is listening over.

    Args:
        config: of uvicorn.
        leave: called when the end has begun.
    """

    def __init__(self, config: uvicorn.Config, leave: Callable[[], None]):
        super().__init__(config)
        self._leave = leave

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._leave()
        if signal.SIGTERM in self._captured_signals:  # not for a person at the keyboard
            self._end_connections_with_their_answers()
            await self._wait(lambda: not self._connections)
        await self._stop_listening(sockets or [])
        await self._wait(lambda: all(connection.cycle for connection in self._connections))  # each has its request
        await super().shutdown(sockets)

    @property
    def _connections(self) -> set[Any]:
        """All that are open; their `cycle` is the last request, with its answer."""
        return self.server_state.connections

    def _end_connections_with_their_answers(self) -> None:
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for connection in self._connections:
            if connection.cycle and not connection.cycle.response_complete:
                connection.shutdown()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Takes over what the kernel has accepted, and stops listening before it can accept more."""
        accepted = []
        for listening in sockets:
            listening.setblocking(False)
            with contextlib.suppress(OSError):  # when there are no more
                while True:
                    accepted.append(listening.accept()[0])
        for server in self.servers:
            server.close()
        for connection in accepted:
            with contextlib.suppress(OSError):  # gone meanwhile
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Any:
        state = self.lifespan.state
        return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state=state)  # type: ignore[call-arg]

    async def _wait(self, over: Callable[[], bool]) -> None:
        """Until something is over, but no longer than `SECONDS_TO_LINGER`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SECONDS_TO_LINGER
        while not over() and loop.time() < until and not self.force_exit:
            await asyncio.sleep(MOMENT)
