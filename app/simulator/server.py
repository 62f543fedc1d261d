"""The simulated server: what it is made of, and which request goes where."""

import asyncio
import hmac
import json
import sys
from functools import partial
from typing import Final

from app.simulator import inference, reads
from app.simulator.control import Control
from app.simulator.decode import Refusal
from app.simulator.errors import Family, error_body
from app.simulator.faults import FaultBook, Order, after_delay, framing_of, misbehave
from app.simulator.http import Connection, Exchange
from app.simulator.inference import Inference
from app.simulator.jobs import Host
from app.simulator.listener import Listener
from app.simulator.loading import Runners
from app.simulator.models import Catalogue
from app.simulator.options import Options
from app.simulator.request_log import RequestLog
from app.simulator.wire import JSON_UTF8, NS_PER_MS, PLAIN_BARE, WallClock

_POST: Final = frozenset({"POST"})
_V1_MODEL: Final = "/v1/models/"


class Simulator:
    """One simulated Ollama server (the `Application` behind its connections)."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = WallClock()
        self.listener = Listener(options.host, options.port, loop, partial(Connection, self))
        self._loop = loop
        self._host = Host(
            name=options.name,
            version=options.version,
            tokens=options.tokens,
            interval_ns=round(options.token_interval_ms * NS_PER_MS),
            catalogue=Catalogue(options.models),
            clock=self.clock,
        )
        self._log = RequestLog(loop, keep=options.log)
        self._faults = FaultBook()
        self._runners = Runners(loop, options.load_ms / 1000)
        self._inference = Inference(
            loop, host=self._host, runners=self._runners, faults=self._faults, log=self._log
        )
        self._control = Control(
            options,
            host=self._host,
            runners=self._runners,
            faults=self._faults,
            log=self._log,
            refuse=self.refuse,
        )
        self._connections: set[Connection] = set()
        self._controllers: set[Connection] = set()
        self._credential_header = options.auth_header.lower().encode()
        # Empty: everybody may come in.
        self._credential = (
            f"{options.auth_scheme} {options.auth_token}".strip().encode() if options.auth_token else b""
        )

    # Application

    def connected(self, connection: Connection) -> None:
        """Count a connection."""
        self._connections.add(connection)
        self._log.connections += 1
        self._log.accepted += 1

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if connection in self._controllers:
            self._controllers.discard(connection)
        else:
            self._log.connections -= 1
            self._log.changed()

    def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        path = request.path
        if path.startswith("/_sim/"):
            self._discount(exchange.connection)
            self._control.serve(exchange)
            return
        self._log.by_path[path] += 1
        if self._credential and not self._authorised(exchange):
            exchange.whole(401, JSON_UTF8, b'{"error":"unauthorized"}')
            return
        route = inference.ROUTES.get(path)
        if route is None:
            self._serve_other(exchange)
        elif request.method != "POST":
            _wrong_method(exchange, _POST)
        else:
            self._inference.serve(exchange, route)

    def refuse(self, for_ms: int | None) -> None:
        """Stop listening, for a time or until told otherwise; connections close once they owe nothing."""
        self.listener.close()
        for connection in list(self._connections):
            connection.close_when_idle()
        if for_ms is not None:
            self._loop.call_later(for_ms / 1000, self.accept_again)

    def accept_again(self) -> None:
        """Listen again on the same port, and say so on standard output."""
        if self.listener.open():
            announce({"listening": True, "name": self._host.name})

    def _discount(self, connection: Connection) -> None:
        """Leave a connection that gives orders out of the count of clients."""
        if connection not in self._controllers:
            self._controllers.add(connection)
            self._log.connections -= 1
            self._log.accepted -= 1
            self._log.changed()

    def _authorised(self, exchange: Exchange) -> bool:
        presented = exchange.request.header(self._credential_header)
        return presented is not None and hmac.compare_digest(presented, self._credential)

    # everything but inference

    def _serve_other(self, exchange: Exchange) -> None:
        path = exchange.request.path
        order = self._faults.take(path, inference=False)
        if order is None:
            self._read(exchange)
        else:
            after_delay(order, exchange, self._loop, partial(self._spoil, exchange, order))

    def _spoil(self, exchange: Exchange, order: Order) -> None:
        if not misbehave(order, exchange, family=_family(exchange), model="", loop=self._loop):
            exchange.frame = framing_of(order) or exchange.frame
            self._read(exchange)

    def _read(self, exchange: Exchange) -> None:
        request = exchange.request
        managed = reads.management_methods(request.path)
        if managed is None:
            self._look_up(exchange)
        elif request.method in managed:
            exchange.on_end = self._log.begin(request, None).end
            reads.management(exchange)
        else:
            _wrong_method(exchange, managed)

    def _look_up(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        found = reads.ROUTES.get(path)
        model = path.removeprefix(_V1_MODEL)
        try:
            if found is not None:
                methods, read = found
                if request.method in methods:
                    read(exchange, self._host, self._runners)
                else:
                    _wrong_method(exchange, methods)
            elif path.startswith(_V1_MODEL) and request.method == "GET" and "/" not in model:
                reads.v1_model(exchange, self._host, model)
            elif path.endswith("/") and (path[:-1] in reads.ROUTES or path[:-1] in inference.ROUTES):
                _without_slash(exchange)
            else:
                exchange.whole(404, PLAIN_BARE, b"404 page not found")
        except Refusal as refusal:
            exchange.whole(refusal.status, *error_body(_family(exchange), refusal.status, refusal.message))


def _family(exchange: Exchange) -> Family:
    return "openai" if exchange.request.path.startswith("/v1/") else "native"


def _wrong_method(exchange: Exchange, allowed: frozenset[str]) -> None:
    allow = ", ".join(sorted(allowed)).encode()
    exchange.whole(405, PLAIN_BARE, b"405 method not allowed", b"Allow: %b\r\n" % allow)


def _without_slash(exchange: Exchange) -> None:
    """Redirect as Ollama's router does."""
    status = 301 if exchange.request.method == "GET" else 307
    exchange.whole(status, PLAIN_BARE, b"", b"Location: %b\r\n" % exchange.request.path[:-1].encode())


def announce(facts: dict[str, object]) -> None:
    """Print one JSON line for whoever started this program."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
