"""A serving process of `potstill serve --follow`: a Bento's application under uvicorn.

It is started in the Bento's code folder (`python -m potstill.serving.worker`), so that it runs the Bento's code only.
At first it listens on a private loopback port. The supervisor tests it there and then sends it the public listening
socket. From then on the kernel gives each new connection to the process that accepts it first. When the old process
stops accepting, waiting connections stay in the shared queue. With separate sockets (SO_REUSEPORT), the connections
that wait for the old process would be reset.
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

# The message of a worker that accepts connections on the public socket.
LISTENING = b"listening"
# uvicorn closes a connection after this idle time.
KEEP_ALIVE_SECONDS = 5


class DrainingServer(uvicorn.Server):
    """A uvicorn server that loses no request when it stops.

    uvicorn closes idle connections at once, and loses a request that a client is just sending. Here every response of
    the last seconds has `connection: close`, so that clients disconnect, and idle connections end by their usual time
    limit.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, wait for clients to disconnect, then stop as uvicorn does."""
        await _accept_waiting(sockets or [])
        for server in self.servers:
            server.close()
        self.server_state.default_headers.append((b"connection", b"close"))
        end = time.monotonic() + KEEP_ALIVE_SECONDS + 1
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


async def _accept_waiting(listeners: list[socket.socket]) -> None:
    """Wait until all waiting connections are accepted, at most a second; closing the socket would reset them."""
    waiting = select.poll()
    for listener in listeners:
        waiting.register(listener, select.POLLIN)
    end = time.monotonic() + 1
    while waiting.poll(0) and time.monotonic() < end:
        await asyncio.sleep(0)


def main() -> None:
    """Run a worker with two sockets of the supervisor: `--own FD --control FD`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--own", type=int, required=True, help="bound socket for requests of the supervisor")
    parser.add_argument("--control", type=int, required=True, help="socket on which the public one is received")
    arguments = parser.parse_args()
    private = socket.socket(fileno=arguments.own)
    control = socket.socket(fileno=arguments.control)
    try:
        app = _application()
    except PotstillError as error:
        print(f"serve: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    private_server = uvicorn.Server(uvicorn.Config(_as_trial(app), log_config=None, server_header=False, lifespan="on"))
    with asyncio.Runner(loop_factory=private_server.config.get_loop_factory()) as runner:
        runner.run(_serve(private_server, app, private, control))


def _application() -> Any:
    """Build the Bento's application as `bentoml serve` does in its worker."""
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
    server_context.service_type = "entry_service"
    server_context.service_name = release.settings.name
    server_context.bento_name = name
    server_context.bento_version = version or "not available"
    service: Any = Classifier  # BentoML's decorator has turned it into a service
    return service.to_asgi()


def _as_trial(app: Any) -> Any:
    """Wrap the application for the supervisor, whose test requests are not watched."""
    from potstill.serving.telemetry import TRIAL

    async def trial_app(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, TRIAL: True}, receive, send)

    return trial_app


async def _serve(server: uvicorn.Server, app: Any, private: socket.socket, control: socket.socket) -> None:
    control.setblocking(False)
    loop = asyncio.get_running_loop()
    # The event loop holds tasks weakly, so they are referenced here.
    public: list[asyncio.Task[None]] = []
    loop.add_reader(control, partial(_receive, app, control, public))
    await server.serve(sockets=[private])
    for task in public:
        await task


def _receive(app: Any, control: socket.socket, public: list[asyncio.Task[None]]) -> None:
    """Receive the public socket from the supervisor."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(control)
    _, descriptors, _, _ = socket.recv_fds(control, 16, 1)
    if descriptors:  # without one the supervisor has ended, and this process ends too
        public.append(loop.create_task(_listen(app, socket.socket(fileno=descriptors[0]), control)))


async def _listen(app: Any, listener: socket.socket, control: socket.socket) -> None:
    """Serve the public socket until SIGTERM; the signal is passed on to the private server, which ends the process."""
    config = uvicorn.Config(
        app, log_config=None, server_header=False, lifespan="off", timeout_keep_alive=KEEP_ALIVE_SECONDS
    )
    server = DrainingServer(config)
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started:
        control.setblocking(True)
        control.sendall(LISTENING)
    await serving


if __name__ == "__main__":
    main()
