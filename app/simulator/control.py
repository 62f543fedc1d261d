"""Orders over HTTP under `/_sim/`: faults, models, settings, and what was seen."""

from collections.abc import Callable
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from app.simulator.faults import FaultBook, Order
from app.simulator.http import Exchange
from app.simulator.jobs import Host
from app.simulator.loading import Runners
from app.simulator.models import SimulatedModel
from app.simulator.options import Options
from app.simulator.request_log import Condition, RequestLog
from app.simulator.wire import JSON_UTF8, NS_PER_MS, go_json

_WAIT_S: Final = 5.0

T = TypeVar("T")


class SettingsOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New settings; what is not named stays as it is."""

    tokens: int | None = None
    token_interval_ms: float | None = None
    load_ms: float | None = None
    version: str | None = None


class Control:
    """The control API of one simulator."""

    def __init__(
        self,
        options: Options,
        *,
        host: Host,
        runners: Runners,
        faults: FaultBook,
        log: RequestLog,
        refuse: Callable[[int | None], None],
    ) -> None:
        self._options = options
        self._host = host
        self._runners = runners
        self._faults = faults
        self._log = log
        self._refuse = refuse
        self._routes: dict[tuple[str, str], Callable[[Exchange], None]] = {
            ("POST", "/_sim/faults"): self._order_fault,
            ("DELETE", "/_sim/faults"): self._withdraw_faults,
            ("POST", "/_sim/models"): self._replace_models,
            ("POST", "/_sim/settings"): self._change_settings,
            ("POST", "/_sim/unload"): self._unload,
            ("POST", "/_sim/reset"): self._reset,
            ("GET", "/_sim/requests"): self._requests,
            ("DELETE", "/_sim/requests"): self._clear_requests,
            ("GET", "/_sim/stats"): self._stats,
            ("GET", "/_sim/wait"): self._stats,
        }

    def serve(self, exchange: Exchange) -> None:
        """Carry out one order."""
        handler = self._routes.get((exchange.request.method, exchange.request.path))
        if handler is None:
            _reply(exchange, {"error": "no such order"}, status=404)
            return
        try:
            handler(exchange)
        except (msgspec.DecodeError, ValueError) as exc:
            _reply(exchange, {"error": str(exc)}, status=400)

    def _order_fault(self, exchange: Exchange) -> None:
        order = _decoded(exchange, Order)
        _reply(exchange, {"ok": True})
        if order.fault == "refuse":
            self._refuse(order.for_ms)
        else:
            self._faults.add(order)

    def _withdraw_faults(self, exchange: Exchange) -> None:
        self._faults.clear(but=dict(parse_qsl(exchange.request.query)).get("but"))
        _reply(exchange, {"ok": True})

    def _replace_models(self, exchange: Exchange) -> None:
        models = [model.completed() for model in _decoded(exchange, list[SimulatedModel])]
        self._host.catalogue.replace(models)
        _reply(exchange, {"ok": True})

    def _change_settings(self, exchange: Exchange) -> None:
        order = _decoded(exchange, SettingsOrder)
        host = self._host
        if order.tokens is not None:
            host.tokens = order.tokens
        if order.token_interval_ms is not None:
            host.interval_ns = round(order.token_interval_ms * NS_PER_MS)
        if order.version is not None:
            host.version = order.version
        if order.load_ms is not None:
            self._runners.load_s = order.load_ms / 1000
        _reply(exchange, {"ok": True})

    def _unload(self, exchange: Exchange) -> None:
        self._unload_all()
        _reply(exchange, {"ok": True})

    def _unload_all(self) -> None:
        for name, _ in list(self._runners.loaded()):
            self._runners.unload(name)

    def _reset(self, exchange: Exchange) -> None:
        """Go back to how the program was started: no faults, no log, nothing loaded."""
        options, host = self._options, self._host
        self._faults.clear()
        host.catalogue.replace(options.models)
        host.tokens = options.tokens
        host.interval_ns = round(options.token_interval_ms * NS_PER_MS)
        host.version = options.version
        self._runners.load_s = options.load_ms / 1000
        self._unload_all()
        self._log.clear()
        _reply(exchange, {"ok": True})

    def _requests(self, exchange: Exchange) -> None:
        self._when(exchange, lambda: {"requests": self._log.entries()})

    def _clear_requests(self, exchange: Exchange) -> None:
        self._log.clear()
        _reply(exchange, {"ok": True})

    def _stats(self, exchange: Exchange) -> None:
        self._when(exchange, self._log.stats)

    def _when(self, exchange: Exchange, answer: Callable[[], dict[str, object]]) -> None:
        """Answer once the conditions in the query hold; 504 if they do not within `timeout_s`."""
        asked = dict(parse_qsl(exchange.request.query))
        timeout_s = float(asked.pop("timeout_s", _WAIT_S))
        unknown = set(asked) - set(Condition.__struct_fields__)
        if unknown:
            raise ValueError(f"unknown condition: {', '.join(sorted(unknown))}")
        condition = Condition(**{name: int(value) for name, value in asked.items()})

        def resume(held: bool) -> None:  # noqa: FBT001 - the log's verdict
            _reply(exchange, answer(), status=200 if held else 504)

        exchange.on_gone = self._log.wait(condition, timeout_s, resume)


def _decoded(exchange: Exchange, shape: type[T]) -> T:
    return msgspec.json.decode(exchange.request.body, type=shape)


def _reply(exchange: Exchange, answer: dict[str, object], *, status: int = 200) -> None:
    exchange.whole(status, JSON_UTF8, go_json(answer))
