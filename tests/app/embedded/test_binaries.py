import stat
from pathlib import Path

import pytest

from app.embedded.binaries import copy_out, postgres_bin, valkey_server
from app.embedded.process import unprivileged_account


def test_the_wheels_hold_the_programs_where_we_look() -> None:
    account = unprivileged_account()

    assert (postgres_bin(account) / "initdb").is_file()
    assert valkey_server(account).is_file()


@pytest.fixture
def private_folder(tmp_path: Path) -> Path:
    """Make a folder as a umask of 077 leaves it."""
    folder = tmp_path / "package"
    folder.mkdir(mode=0o700)
    for name, mode in {"program": 0o700, "data": 0o600}.items():
        (folder / name).touch()
        (folder / name).chmod(mode)
    return folder


def test_a_copy_can_be_read_and_run_by_everybody(private_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "package-1"
    copy_out([private_folder], target)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (target, *target.rglob("*"))}
    assert modes == {"package-1": 0o755, "package": 0o755, "program": 0o755, "data": 0o644}


def test_a_copy_that_comes_second_leaves_the_first_and_nothing_else(
    private_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "cache" / "package-1"
    copy_out([private_folder], target)
    (private_folder / "program").write_text("changed")

    copy_out([private_folder], target)

    assert [target] == list(target.parent.iterdir())
    assert (target / "package" / "program").read_text() == ""
