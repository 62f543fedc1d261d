"""Go's own JSON decoder, asked what Ollama would run (`tests/go/decoder.go`)."""

import os
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from tests.support.repository import ROOT

SOURCE = ROOT / "tests/go/decoder.go"


class Seen(msgspec.Struct, frozen=True):
    """What a handler of Ollama's sees of a body; `error` says why it would answer 400 instead."""

    error: str
    model: str
    stream: bool | None
    keep_alive_ns: int | None
    options: dict[str, Any] | None
    output_cap: int | None
    include_usage: bool


_ANSWER = msgspec.json.Decoder(Seen)


def find_go() -> str | None:
    """Return the Go of the dependency group `oracle`, else the machine's, None if there is neither."""
    own = os.fspath(Path(sys.executable).parent)
    return shutil.which("go", path=os.pathsep.join((own, os.environ.get("PATH", ""))))


class GoDecoder:
    """The decoder, built."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @classmethod
    def build(cls, go: str, *, cache: Path, directory: Path) -> "GoDecoder":
        """Build it into a directory. Nothing is fetched; what of Go's library was built before is in `cache`."""
        program = directory / "decoder"
        environment = {name: value for name, value in os.environ.items() if name != "GOROOT"} | {
            "CGO_ENABLED": "0",
            "GOCACHE": os.fspath(cache),
            "GOFLAGS": "-mod=mod",
            "GOPATH": os.fspath(directory / "path"),
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
        }
        subprocess.run([go, "build", "-o", program, SOURCE], check=True, cwd=directory, env=environment)
        return cls(program)

    def read(self, requests: Iterable[tuple[str, bytes]]) -> list[Seen]:
        """Return what is seen of bodies, each sent to a path."""
        lines = b"".join(b"%b %b\n" % (path.encode(), b64encode(body)) for path, body in requests)
        answered = subprocess.run([self._program], input=lines, stdout=subprocess.PIPE, check=True)
        return [_ANSWER.decode(line) for line in answered.stdout.splitlines()]
