"""How long a large body keeps everybody else waiting: `python -m bench.large_bodies`, two minutes.

One client posts a large body again and again; another asks for `/api/tags`, which needs no backend, every other
millisecond. What it waits for at most while a body is on its way is as long as the event loop stood still, and a
little more. `--against CHECKOUT` measures the gateway of another checkout in turn with this one.
"""

import argparse
import base64
import http.client
import json
import os
import random
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, NamedTuple

from bench.processes import REPOSITORY, cpu_s, resident_bytes, split_cores
from bench.report import BEFORE, SUBJECT, percentile, this_machine
from bench.targets import MODEL, Target, gateway, simulator
from bench.wire import OK, get
from domain.crowding import MAX_COMMAS, MAX_CONTAINERS

PATH: Final = "/api/chat"
LARGEST_BYTES: Final = 64 << 20
PROBE_EVERY_S: Final = 0.002
SETTLES_S: Final = 0.3
_PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0\0\0\2\0"
_RANDOM: Final = random.Random(20)


def images(count: int, text_bytes: int) -> bytes:
    """Return a chat with so many images of that size in base64."""
    return _chat(
        {
            "role": "user",
            "content": "What is this?",
            "images": [
                base64.b64encode(_PNG_HEAD + _RANDOM.randbytes(text_bytes * 3 // 4 - 24)).decode()
                for _ in range(count)
            ],
        }
    )


def conversation(text_bytes: int) -> bytes:
    """Return a chat of many messages with line breaks and quotes."""
    said = 'She said "hello",\nand left.\n' * 40
    return _chat(*({"role": "user", "content": said} for _ in range(text_bytes // len(json.dumps(said)))))


def crowd() -> bytes:
    """Return the most lists and texts that a body may hold, none of which means anything."""
    lists, texts = MAX_CONTAINERS - 10, MAX_COMMAS - MAX_CONTAINERS
    return b'{"model":"%b","stream":false,"messages":[],"x":[%b%b[]]}' % (
        MODEL.encode(),
        b"[]," * lists,
        b'"",' * texts,
    )


def _chat(*messages: Mapping[str, object]) -> bytes:
    return json.dumps({"model": MODEL, "stream": False, "messages": messages}).encode()


BODIES: Mapping[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "1 image, 20 MiB": lambda: images(1, 20 << 20),
    "20 images, 1 MiB": lambda: images(20, 1 << 20),
    "10 images, 5 MiB": lambda: images(10, 5 << 20),
    "5,000 images, 4.5 KiB": lambda: images(5_000, 4608),
    "1 image, 256 KiB": lambda: images(1, 1 << 18),
    "1 image, 200 KiB": lambda: images(1, 200 << 10),
    "conversation, 8 MiB": lambda: conversation(8 << 20),
    "a crowd, 6 MB": crowd,
}


class Round(NamedTuple):
    """One body on its way: what the other client waited, what the body took, and what it cost."""

    waits_s: list[float]
    took_s: float
    cpu_s: float
    grown_bytes: int


class Prober:
    """Asks one small thing after the other over one connection."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection(("127.0.0.1", target.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = get("/api/tags", target.key)

    def ask(self) -> float:
        """Return how many seconds one answer took."""
        began = time.perf_counter()
        self._socket.sendall(self._request)
        answer = self._socket.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"no answer: {answer[:80]!r}")
        return time.perf_counter() - began

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def one_round(target: Target, body: bytes) -> Round:
    """Post one body, or nothing for a while, and ask small things meanwhile."""
    pid = max(target.pids, key=lambda pid: resident_bytes([pid]))
    with closing(Prober(target)) as prober, ThreadPoolExecutor(1) as poster:
        prober.ask()
        before, cpu, began = _reset_peak(pid), cpu_s([pid]), time.perf_counter()
        posting = poster.submit(_post, target, body) if body else poster.submit(time.sleep, 0.5)
        waits = []
        while not posting.done():
            waits.append(prober.ask())
            time.sleep(PROBE_EVERY_S)
        posting.result()
        return Round(waits, time.perf_counter() - began, cpu_s([pid]) - cpu, _peak(pid) - before)


def _post(target: Target, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", target.port)
    connection.request("POST", PATH, body, {"Authorization": f"Bearer {target.key}"})
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != OK:
        raise RuntimeError(f"{answer.status}: {said[:200]!r}")


def _reset_peak(pid: int) -> int:
    """Forget the most memory a process has held, and return what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return _peak(pid)


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the system does not tell how much memory a process held at most")


def row(name: str, which: str, body: bytes, rounds: Sequence[Round]) -> str:
    """Return a line of the table."""
    longest = [max(each.waits_s) * 1e3 for each in rounds]
    figures = [
        f"{statistics.median(percentile(each.waits_s, 50) for each in rounds) * 1e3:.1f}",
        f"{statistics.median(longest):.1f}",
        f"{max(longest):.1f}",
    ]
    if body:
        figures += [
            f"{statistics.median(each.took_s for each in rounds) * 1e3:,.0f}",
            f"{statistics.median(each.cpu_s for each in rounds) * 1e3:,.0f}",
            f"{max(each.grown_bytes for each in rounds) / len(body):.1f}",
        ]
    return f"| {' | '.join([name, which, *figures, *('-' for _ in range(6 - len(figures)))])} |"


def measure(targets: Mapping[str, Target], *, rounds: int, bodies: Sequence[str]) -> None:
    """Print the table, body by body."""
    print(f"{this_machine()}. {rounds} rounds.\n")
    print(
        "| body | version | wait ms, p50 | longest wait ms, median | max | took ms | CPU ms | memory, times its size |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in bodies:
        body = BODIES[name]()
        found: dict[str, list[Round]] = {which: [] for which in targets}
        for _ in range(rounds + 1):
            for which, target in targets.items():
                found[which].append(one_round(target, body))
                time.sleep(SETTLES_S)
        for which, all_rounds in found.items():
            print(row(name, which, body, all_rounds[1:]), flush=True)  # the first one warms up


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.large_bodies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure another checkout in turn")
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=list(BODIES), metavar="BODY")
    options = parser.parse_args()
    cores = split_cores()
    with ExitStack() as running:
        backend = running.enter_context(simulator("bench", cores.others))
        checkouts = {} if options.against is None else {BEFORE: options.against.resolve()}
        targets = {}
        for which, checkout in (checkouts | {SUBJECT: REPOSITORY}).items():
            more = {"GATEWAY_MAX_BODY_BYTES": str(LARGEST_BYTES)}
            (targets[which],) = running.enter_context(gateway(which, checkout, backend, cores, more=more))
        os.sched_setaffinity(0, cores.others)
        measure(targets, rounds=options.rounds, bodies=options.bodies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
