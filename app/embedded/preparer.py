"""Talking to the program of `first_start`: one JSON line each way per task."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from app.embedded.errors import ChildFailed
from app.embedded.handover import FirstKeys, Migrated, MigrateOrder, MintOrder
from app.embedded.log import Log
from app.embedded.process import Command, kill, spawn

T = TypeVar("T", bound=msgspec.Struct)


class Preparer:
    """The running program. It loads its libraries, which takes a while, before it is asked for anything."""

    def __init__(self, environ: Mapping[str, str], log: Log) -> None:
        command = Command(
            argv=(sys.executable, "-P", "-m", "app.embedded.first_start"), env=environ, cwd=Path.cwd()
        )
        self._process = spawn(command, output=subprocess.PIPE, errors=subprocess.PIPE, converse=True)
        log.follow("prepare", self._process.stderr)

    async def migrate(self, order: MigrateOrder) -> None:
        """Bring the database to this release.

        Raises
        ------
        ChildFailed
            It was not possible; the reason is in the message or the log.
        """
        answer = await asyncio.to_thread(self._ask, order, Migrated)
        if answer.refusal is not None:
            raise ChildFailed(f"PostgreSQL was left alone: {answer.refusal}.")

    async def mint(self, order: MintOrder) -> FirstKeys:
        """Return the keys of a first start, which this is the only chance to see.

        Raises
        ------
        ChildFailed
            It was not possible; the reason is in the log.
        """
        return await asyncio.to_thread(self._ask, order, FirstKeys)

    def close(self) -> None:
        """End the program, whatever it is doing."""
        kill(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _ask(self, order: msgspec.Struct, answer: type[T]) -> T:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ChildFailed("The database could not be prepared: its program has no pipes.")
        try:
            stdin.write(msgspec.json.encode(order) + b"\n")
            stdin.flush()
            return msgspec.json.decode(stdout.readline(), type=answer)
        except (OSError, msgspec.MsgspecError) as exc:
            raise ChildFailed("The database could not be prepared; the reason is in the log.") from exc
