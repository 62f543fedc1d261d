"""The least that any application costs on our server: read the body, answer about a kilobyte.

Run by the benchmark as `python -m bench.floor PORT`, with the settings of the gateway's own server.
"""

import sys

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.log import LogLevels
from granian.server.mp import MPServer
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

ANSWER = b'{"answer":"' + b"x" * 985 + b'"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer anything."""
    if scope["type"] != ScopeType.HTTP:
        return
    while True:
        event = await receive()
        if event["type"] != "http.request" or not event["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})


def main() -> None:
    """Serve until SIGTERM."""
    server = MPServer(
        "bench.floor:application",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.ASGI,
        runtime_mode=RuntimeModes.st,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        log_access=False,
        log_level=LogLevels.warning,
    )
    print("ready", flush=True)
    server.serve()


if __name__ == "__main__":
    main()
