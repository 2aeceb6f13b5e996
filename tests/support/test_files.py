"""Files that are replaced: whole or not at all, and with all that they had but their content."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from dense_xp.support.files import replacing, write_atomically

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes, links and devices of POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", b"1")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o640


@pytest.mark.parametrize("permissions", [0o600, 0o644, 0o640, 0o444])
def test_the_mode_stays(tmp_path: Path, permissions: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(permissions)
    write_atomically(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", permissions)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    link, other = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(Path("deep") / "target")
    (tmp_path / "deep" / "target").write_bytes(b"old")
    other.symlink_to(tmp_path / "deep" / "later")
    for path, target in ((link, "target"), (other, "later")):
        write_atomically(path, b"new")
        assert path.is_symlink()
        assert (tmp_path / "deep" / target).read_bytes() == b"new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dangling", "deep", "link"]


def test_what_is_no_regular_file_is_left_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/full"), Path("/dev/null")):
        with pytest.raises(OSError, match="is no regular file"):
            write_atomically(path, b"1")
        assert not stat.S_ISREG(path.stat().st_mode)
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        write_atomically(tmp_path, b"1")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing: make it first"):
        write_atomically(tmp_path / "missing" / "file", b"1")


@pytest.mark.parametrize("length", [1, 200, 255])
def test_names_up_to_the_limit(tmp_path: Path, length: int) -> None:
    write_atomically(tmp_path / ("n" * length), b"1")
    assert [len(entry.name) for entry in tmp_path.iterdir()] == [length]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("no")]
)
def test_after_an_error_nothing_has_changed(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    says = r"file was not written \(No space left on device\); .* is as it was" if isinstance(error, OSError) else None
    with pytest.raises(type(error), match=says) as raised:
        write()
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    """And nothing else: not what another process is writing, nor what only looks alike."""
    killed = textwrap.dedent(
        """
        import os, signal, sys
        from dense_xp.support.files import replacing
        with replacing(sys.argv[1] + "/file") as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    others = [".dense_xp-notes.tmp", ".dense_xp-00000000-1-aa.tmp", ".file.1234abcd"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    with replacing(tmp_path / "second") as file:  # unfinished, by a process that runs
        write_atomically(tmp_path / "file", b"new")
        file.write(b"whole")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*others, "file", "second"])
    assert (tmp_path / "second").read_bytes() == b"whole"


def test_the_owner_stays(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 1235)
    write_atomically(path, b"new")
    found: Any = path.stat()
    assert (found.st_uid, found.st_gid) == (1234, 1235)
