"""Servers that are away for a while, or whose answers are lost: a door in front of one, which can be closed."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Event, Thread

from potstill.compute.processes import free_port


class Door:
    """A port that leads to a server's. Closing it ends all connections, and new ones are refused.

    Attributes:
        port: what clients connect to.
        unanswered: bytes of requests that reach the server and whose answer is lost, each once.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.unanswered: list[bytes] = []
        self._ends: list[socket.socket] = []
        self.port = free_port()
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [client, server]
                silenced = Event()
                Thread(target=self._ask, args=(client, server, silenced), daemon=True).start()
                Thread(target=_answer, args=(server, client, silenced), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, silenced: Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                for request in [request for request in self.unanswered if request in data]:
                    self.unanswered.remove(request)
                    silenced.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)


def _answer(server: socket.socket, client: socket.socket, silenced: Event) -> None:
    with suppress(OSError):
        while (data := server.recv(65536)) and not silenced.is_set():
            client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)
