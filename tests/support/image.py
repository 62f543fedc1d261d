"""The image without a container engine: buildah builds it, and a mount namespace stands in for a container."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.repository import ROOT

USER: Final = "10001"
_PROGRAMS: Final = ("buildah", "mmdebstrap", "unshare", "tar")
_BASE_PACKAGES: Final = "python3,python3-pip,python-is-python3,ca-certificates,tzdata"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-trixie-stable.gpg")
_AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
# What compose.yml asks of an engine, by hand: a root that cannot be written to, and one user without any privilege.
_CONTAINER: Final = """
set -eu
tree=$1 volume=$2 secrets=$3; shift 3
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount -t tmpfs -o noexec,nosuid,nodev,mode=1777,size=64m tmpfs "$tree/tmp"
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mkdir "$tree/run/secrets"
mount --bind "$secrets" "$tree/run/secrets"
mount --bind "$volume/journal" "$tree/var/lib/neuronetz-gateway/journal"
mount --bind "$volume/mirror" "$tree/var/lib/neuronetz-gateway/mirror"
exec chroot "$tree" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all -- "$@"
"""


class Image:
    """A built image: its tree, and what its configuration says about starting it."""

    def __init__(self, tree: Path, config: Mapping[str, object], bytes_over_base: int) -> None:
        self.tree = tree
        self.config = config
        self.bytes_over_base = bytes_over_base

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the image sets."""
        variables = self.config["Env"]
        assert isinstance(variables, list)
        return dict(entry.split("=", 1) for entry in variables)

    def command(self, *words: str, volume: Path, secrets: Path) -> list[str]:
        """Return how to run words in the tree, as compose.yml would have them run."""
        return [
            "unshare",
            "--mount",
            "sh",
            "-c",
            _CONTAINER,
            "sh",
            *map(str, (self.tree, volume, secrets)),
            *words,
        ]

    def run(
        self, *words: str, volume: Path, secrets: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run words in the tree to their end."""
        return subprocess.run(
            self.command(*words, volume=volume, secrets=secrets),
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def skip_unless_it_can_be_built() -> None:
    """Skip with the reason where this machine, or this kind of run, builds no image."""
    if os.environ.get("NNG_SOAK") != "1":
        pytest.skip("an image is built by the soak alone: just soak -n0 tests/journeys/test_image.py")
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: apt-get install buildah mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("only root may bind mounts and build without a daemon")
    if not _KEYRING.exists():
        pytest.skip(f"{_KEYRING} is missing: apt-get install debian-archive-keyring")


@contextmanager
def built_image(scratch: Path) -> Iterator[Image]:
    """Make a base of Debian's packages, build the Containerfile on it, and give the result as a tree."""
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--keyring={_KEYRING}", f"--include={_BASE_PACKAGES}",
         "trixie", scratch / "base.tar"],
        check=True,
        timeout=600,
    )  # fmt: skip
    bare = _buildah(scratch, "from", "scratch")
    _buildah(scratch, "add", "--quiet", bare, str(scratch / "base.tar"), "/")
    _buildah(scratch, "commit", "--quiet", bare, "base")
    base_bytes = _bytes(Path(_buildah(scratch, "mount", bare)))
    authorities = [
        "--volume", f"{_AUTHORITIES}:/etc/ssl/certs/of-this-machine.crt:ro",
        "--build-arg", "SSL_CERT_FILE=/etc/ssl/certs/of-this-machine.crt",
    ]  # fmt: skip
    _buildah(
        scratch, "bud", "--quiet", "--isolation", "chroot", "--network", "host", *authorities,
        "--build-arg", "BASE=localhost/base", "--file", str(ROOT / "Containerfile"), "--tag", "image", str(ROOT),
    )  # fmt: skip
    working = _buildah(scratch, "from", "image")
    tree = Path(_buildah(scratch, "mount", working))
    config = json.loads(_buildah(scratch, "inspect", "--type", "image", "image"))["OCIv1"]["config"]
    try:
        yield Image(tree, config, _bytes(tree) - base_bytes)
    finally:
        _buildah(scratch, "rm", "--all")
        _buildah(scratch, "rmi", "--all", "--force")


def _buildah(scratch: Path, *words: str) -> str:
    stores = ["--root", str(scratch / "store"), "--runroot", str(scratch / "run"), "--storage-driver", "vfs"]
    done = subprocess.run(
        ["buildah", *stores, *words], capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout.strip()


def _bytes(tree: Path) -> int:
    """Return how large a layer of all this would be, uncompressed."""
    counted = subprocess.run(
        ["sh", "-c", 'tar --directory "$1" --create . | wc --bytes', "sh", tree],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(counted.stdout)
