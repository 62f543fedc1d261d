"""Everything on one machine: servers, migrations, app, worker; up in order, down in order.

Started first means stopped last: PostgreSQL, Valkey, simulators, worker, app.
"""

import asyncio
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from app.embedded import demo, ports, server
from app.embedded.child import FIRST_DELAY_S, Child
from app.embedded.environment import gateway_environment, names_backends, neutral_environment
from app.embedded.errors import ChildFailed
from app.embedded.handover import BackendAddress, FirstKeys, MigrateOrder, MintOrder, Pids, Ready, Report
from app.embedded.log import Log
from app.embedded.postgres import PostgresServer
from app.embedded.preparer import Preparer
from app.embedded.process import Command, children_of, unprivileged_account
from app.embedded.readiness import base_url, claimed_port, polled_models, until_green
from app.embedded.running import Running, announce, withdraw
from app.embedded.state_dir import Secrets, StateDirectory, locked
from app.embedded.valkey import ValkeyServer
from app.settings import AppSettings, load_app_settings

DATABASE: Final = "postgres"
READY_TIMEOUT_S: Final = 60.0
SERVER_GRACE_S: Final = 10.0
SERVER_LEAST_GRACE_S: Final = 1.0
"""An orderly end takes a server a few milliseconds and spares the next start a recovery."""
WORKER_GRACE_S: Final = 10.0
SIMULATOR_GRACE_S: Final = 2.0
APP_MARGIN_S: Final = 5.0
"""How much longer than its drain the app may take before it is killed."""

_STORES_TO_COME: Final = {"DATABASE_URL": "postgresql://127.0.0.1/", "REDIS_URL": "redis://127.0.0.1/"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the operator asked for. Port 0 picks a free one."""

    host: str
    port: int
    state_dir: Path
    demo: bool

    @property
    def tenant(self) -> str:
        """The slug of the first tenant."""
        return "demo" if self.demo else "default"


class Stack:
    """One local instance of everything.

    Parameters
    ----------
    options : what the operator asked for.
    environ : the operator's environment.
    log : where every process's output goes.
    """

    def __init__(self, options: Options, *, environ: Mapping[str, str], log: Log) -> None:
        self._options = options
        self._environ = environ
        self._log = log
        self._children: dict[str, Child] = {}
        self._ports: dict[str, int] = {}
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """From now on kill instead of waiting."""
        self._hurry.set()

    async def run(self, report: Callable[[Report], None]) -> None:
        """Start everything, report once it serves, keep it alive until cancelled, then end it in order.

        Raises
        ------
        EmbeddedError, SettingsError
            Something could not be started; what ran already has been ended.
        """
        port = claimed_port(self._options.host, self._options.port)
        with locked(self._options.state_dir) as state:
            async with AsyncExitStack() as running:
                await self._bring_up(state, port, running, report)
                await asyncio.Event().wait()

    async def _bring_up(
        self, state: StateDirectory, port: int, running: AsyncExitStack, report: Callable[[Report], None]
    ) -> None:
        self._ports = state.ports()
        secrets = state.secrets()
        environment_for = functools.partial(
            gateway_environment,
            self._environ,
            state=state,
            secrets=secrets,
            host=self._options.host,
            port=port,
        )
        # Whatever is wrong with the operator's settings is said before anything has started.
        load_app_settings(environment_for(stores=_STORES_TO_COME, backends=None))
        preparer = Preparer(neutral_environment(self._environ), self._log)
        running.callback(preparer.close)
        owner_url, stores = self._start_servers(state, secrets, running)
        environment = environment_for(stores=stores, backends=self._start_simulators(secrets, running))
        settings = load_app_settings(environment)
        state.remember(self._ports)
        database_url = stores["DATABASE_URL"]
        await preparer.migrate(MigrateOrder(owner_url, database_url))
        hosted = await self._start_gateway(environment, settings, running)
        keys = await preparer.mint(
            MintOrder(database_url, settings.key_pepper.get_secret_value(), self._options.tenant)
        )
        preparer.close()
        url = base_url(self._options.host, port)
        announce(state.path, Running(pid=os.getpid(), url=url, environment=environment))
        running.callback(withdraw, state.path)
        for child in self._children.values():
            child.keep_alive()
        report(self._report(url, stores, settings, keys, hosted))

    def _start_servers(
        self, state: StateDirectory, secrets: Secrets, running: AsyncExitStack
    ) -> tuple[str, dict[str, str]]:
        """Start them, and return the address of the tables' owner and the addresses for app and worker."""
        account = unprivileged_account()
        postgres = PostgresServer(
            state.postgres_data, password=secrets.postgres_password, account=account, lock_fd=state.lock_fd
        )
        valkey = ValkeyServer(
            state.valkey_data, password=secrets.valkey_password, account=account, lock_fd=state.lock_fd
        )
        self._start_server(postgres, running)
        self._start_server(valkey, running)
        owner_url = postgres.url(self._ports[postgres.name], DATABASE)
        return owner_url, {
            "DATABASE_URL": secrets.app_role.address(owner_url),
            "REDIS_URL": valkey.url(self._ports[valkey.name]),
        }

    def _start_server(self, kind: server.Server, running: AsyncExitStack) -> None:
        running.callback(kind.close)
        child = self._child(
            kind.name,
            lambda: _restart(kind, self._ports[kind.name]),
            grace_s=SERVER_GRACE_S,
            least_grace_s=SERVER_LEAST_GRACE_S,
        )
        started = server.start(
            kind,
            output=subprocess.PIPE,
            preferred_port=self._ports.get(kind.name),
            attach=child.adopt,
        )
        self._ports[kind.name] = started.port
        running.push_async_callback(child.stop, self._hurry)

    def _start_simulators(self, secrets: Secrets, running: AsyncExitStack) -> str | None:
        """Start the simulated servers if asked to, and return the setting that names them."""
        if not self._options.demo:
            return None
        token = secrets.simulator_token
        environ = neutral_environment(self._environ)
        for simulator in demo.SIMULATORS:
            port = self._ports[simulator.name] = ports.pick(self._ports.get(simulator.name))
            command = demo.simulator_command(simulator, port, token=token, environ=environ)
            self._start(
                simulator.name,
                command,
                running,
                grace_s=SIMULATOR_GRACE_S,
                first_delay_s=demo.RESTART_DELAY_S,
            )
        return demo.backends_setting([self._ports[each.name] for each in demo.SIMULATORS], token=token)

    async def _start_gateway(
        self, environment: Mapping[str, str], settings: AppSettings, running: AsyncExitStack
    ) -> dict[str, tuple[str, ...]]:
        """Start worker and app, wait until they serve, and return the models by backend."""
        since = datetime.now(UTC)
        grace_s = settings.drain_s + APP_MARGIN_S
        worker = self._start("worker", _python(environment, "worker"), running, grace_s=WORKER_GRACE_S)
        app = self._start("app", _python(environment, "app", "serve"), running, grace_s=grace_s)
        serving = asyncio.create_task(_first_models(settings, since=since), name="serving")
        deaths = [asyncio.create_task(child.fail_on_death()) for child in (worker, app)]
        try:
            done, _ = await asyncio.wait(
                (serving, *deaths), timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            for death in done & {*deaths}:
                await death
            if not done:
                raise ChildFailed(f"The gateway was not ready within {READY_TIMEOUT_S:.0f} s.")
            return serving.result()
        finally:
            for task in (serving, *deaths):
                task.cancel()

    def _start(
        self,
        name: str,
        command: Command,
        running: AsyncExitStack,
        *,
        grace_s: float,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> Child:
        child = self._child(name, lambda: command, grace_s=grace_s, first_delay_s=first_delay_s)
        child.start()
        running.push_async_callback(child.stop, self._hurry)
        return child

    def _child(
        self,
        name: str,
        command: Callable[[], Command],
        *,
        grace_s: float,
        least_grace_s: float = 0.0,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> Child:
        child = Child(
            name,
            command,
            log=self._log,
            grace_s=grace_s,
            least_grace_s=least_grace_s,
            first_delay_s=first_delay_s,
        )
        self._children[name] = child
        return child

    def _report(
        self,
        url: str,
        stores: Mapping[str, str],
        settings: AppSettings,
        keys: FirstKeys,
        hosted: dict[str, tuple[str, ...]],
    ) -> Report:
        ready = Ready(
            url=url,
            admin_key=keys.admin_key,
            tenant=self._options.tenant,
            tenant_key=keys.tenant_key,
            database_url=stores["DATABASE_URL"],
            redis_url=stores["REDIS_URL"],
            backends=tuple(BackendAddress(each.name, each.base_url) for each in settings.backends()),
            pids=Pids(
                app=self._family("app"),
                worker=self._family("worker"),
                postgres=self._children["postgres"].pid,
                valkey=self._children["valkey"].pid,
            ),
        )
        return Report(ready, hosted, self._options.demo or names_backends(self._environ))

    def _family(self, name: str) -> tuple[int, ...]:
        pid = self._children[name].pid
        return (pid, *children_of(pid))


def _restart(kind: server.Server, port: int) -> Command:
    kind.initialise()  # clears what the dead one left behind
    return kind.command(port)


def _python(environment: Mapping[str, str], *words: str) -> Command:
    # -P: a directory of the operator's that happens to be called `app` must not be taken for ours.
    return Command(argv=(sys.executable, "-P", "-m", *words), env=environment, cwd=Path.cwd())


async def _first_models(settings: AppSettings, *, since: datetime) -> dict[str, tuple[str, ...]]:
    """Return the models by backend once the gateway is green."""
    await until_green(settings.host, settings.port)
    return await polled_models(settings.redis_url.get_secret_value(), since=since)
