"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from typing import BinaryIO


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file as a whole; see :func:`replacing`.

    Parameters
    ----------
    path : path-like
        The file; one that is there is replaced.
    data : bytes
        All of it.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of another once it is whole and on the disk; after an error nothing changed.

    It is written beside its place and renamed. A link stays one, and what it leads to is replaced; the mode, and for
    root the owner, are those of the file before.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    OSError
        If the path is no file, its folder is missing, or it cannot be written; the message says which.
    """
    place = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(place)
    before = os.stat(place) if os.path.lexists(place) else None
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder: name a file in it")
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise OSError(f"{os.fspath(path)} is no regular file, and cannot be replaced as a whole: write to another path")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder}: make it first")
    _clear(folder)
    temporary = os.path.join(folder, f"{_own_prefix()}{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            if before is not None:
                os.chmod(temporary, stat.S_IMODE(before.st_mode))
                with contextlib.suppress(OSError, AttributeError):  # not root, or a system without owners
                    os.chown(temporary, before.st_uid, before.st_gid)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            error.errno, f"{name} was not written ({error.strerror or error}); {folder} is as it was"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):  # as it should be
            os.unlink(temporary)


def _own_prefix() -> str:
    """Return how the names of unfinished files begin: with what sees the same numbers of processes as we do."""
    import platform

    machine = platform.node()
    with contextlib.suppress(OSError):  # another container has numbers of its own
        machine += os.readlink("/proc/self/ns/pid")
    return f".dense_xp-{zlib.crc32(machine.encode()):08x}-"


def _clear(folder: str) -> None:
    """Remove what processes of this machine that are gone left unfinished."""
    prefix = _own_prefix()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            number = entry.name.removeprefix(prefix).partition("-")[0]
            if not (entry.name.startswith(prefix) and entry.name.endswith(".tmp") and number.isdigit()):
                continue
            with contextlib.suppress(OSError):
                if not _runs(int(number)):
                    os.unlink(entry.path)


def _runs(process: int) -> bool:
    if os.name == "nt":  # where the signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
