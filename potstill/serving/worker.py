"""One serving process of `potstill serve --follow`: a Bento's own application under uvicorn.

It is started in the Bento's code folder (`python -m potstill.serving.worker`), so that all code it runs is the Bento's.
First it answers on a loopback port of its own only. The public listening socket is handed to it when it has shown there
that it answers well: the kernel then gives each new connection to whichever process accepts it first, and when the old
one stops accepting, connections still waiting stay in the queue they share. With a socket each (SO_REUSEPORT) those
waiting at the old one would be reset.
"""

from __future__ import annotations

import argparse
import asyncio
import select
import socket
import sys
import time
from functools import partial
from typing import Any

import uvicorn

from potstill import environment
from potstill.errors import PotstillError

# What the worker answers when it accepts from the socket it was handed.
LISTENING = b"listening"
# uvicorn closes a connection that has been idle for so long.
KEEP_ALIVE_SECONDS = 5


class Draining(uvicorn.Server):
    """A uvicorn server that loses no request when it stops.

    uvicorn closes idle connections at once, and with them a request that a client is just sending on one. Here every
    answer of the last seconds says `connection: close`, so that clients leave by themselves, and a connection that
    stays silent ends by the same time limit as ever.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let the clients go, then stop as uvicorn does."""
        await _none_waits(sockets or [])
        for server in self.servers:
            server.close()
        self.server_state.default_headers.append((b"connection", b"close"))
        end = time.monotonic() + KEEP_ALIVE_SECONDS + 1
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


async def _none_waits(listeners: list[socket.socket]) -> None:
    """Until no connection waits to be accepted (a second at most): closing the socket would reset it."""
    waiting = select.poll()
    for listener in listeners:
        waiting.register(listener, select.POLLIN)
    end = time.monotonic() + 1
    while waiting.poll(0) and time.monotonic() < end:
        await asyncio.sleep(0)


def main() -> None:
    """`python -m potstill.serving.worker --own FD --control FD`: sockets inherited from the supervisor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--own", type=int, required=True, help="a bound socket to answer the supervisor on")
    parser.add_argument("--control", type=int, required=True, help="a socket on which the public one arrives")
    chosen = parser.parse_args()
    own, control = socket.socket(fileno=chosen.own), socket.socket(fileno=chosen.control)
    try:
        app = _application()
    except PotstillError as error:
        print(f"serve: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    first = uvicorn.Server(uvicorn.Config(_on_trial(app), log_config=None, server_header=False, lifespan="on"))
    with asyncio.Runner(loop_factory=first.config.get_loop_factory()) as runner:
        runner.run(_serve(first, app, own, control))


def _application() -> Any:
    """The Bento's application, as `bentoml serve` builds it in its worker."""
    environment.prepare()
    from bentoml import server_context
    from bentoml._internal.log import configure_server_logging
    from bentoml.exceptions import BentoMLException

    configure_server_logging()
    try:
        from potstill.serving.service import Classifier, release
    except BentoMLException as error:
        raise PotstillError(str(error)) from None
    name, _, version = (release.tag or release.settings.name).partition(":")
    server_context.service_type, server_context.service_name = "entry_service", release.settings.name
    server_context.bento_name, server_context.bento_version = name, version or "not available"
    service: Any = Classifier  # BentoML's decorator has made it one
    return service.to_asgi()


def _on_trial(app: Any) -> Any:
    """The application as the supervisor asks it: what it is tried with are not the texts of users."""
    from potstill.serving.telemetry import TRIAL

    async def tried(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, TRIAL: True}, receive, send)

    return tried


async def _serve(first: uvicorn.Server, app: Any, own: socket.socket, control: socket.socket) -> None:
    control.setblocking(False)
    loop = asyncio.get_running_loop()
    # Kept here, or the loop, which holds its tasks weakly, may lose it.
    public: list[asyncio.Task[None]] = []
    loop.add_reader(control, partial(_receive, app, control, public))
    await first.serve(sockets=[own])
    for task in public:
        await task


def _receive(app: Any, control: socket.socket, public: list[asyncio.Task[None]]) -> None:
    """Take the public socket that the supervisor has sent."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(control)
    _, descriptors, _, _ = socket.recv_fds(control, 16, 1)
    if descriptors:  # else the supervisor has gone, and this process goes with it
        public.append(loop.create_task(_listen(app, socket.socket(fileno=descriptors[0]), control)))


async def _listen(app: Any, listener: socket.socket, control: socket.socket) -> None:
    """Serve the public socket until SIGTERM; then the signal is passed on to the first server, which ends the rest."""
    config = uvicorn.Config(
        app, log_config=None, server_header=False, lifespan="off", timeout_keep_alive=KEEP_ALIVE_SECONDS
    )
    server = Draining(config)
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started:
        control.setblocking(True)
        control.sendall(LISTENING)
    await serving


if __name__ == "__main__":
    main()
