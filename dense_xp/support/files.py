"""Atomic writes: a file is written as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file as a whole; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(data)


def as_path(path: Any) -> str:
    """Return a path as text.

    Raises
    ------
    TypeError, ValueError
        If it is no path: a number, which the system would take for an open file, or an empty text.

    Examples
    --------
    >>> as_path(3)
    Traceback (most recent call last):
    TypeError: a path is a text or a pathlib.Path, and this is 3
    """
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise TypeError(f"a path is a text or a pathlib.Path, and this is {path!r:.60}") from None
    if not text or "\0" in text:
        raise ValueError(f"a path names a file, and this is {text!r:.60}")
    return text


def place_of(path: str | os.PathLike[str]) -> str:
    """Return where a file would be written, with links resolved; nothing is written yet.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    TypeError, ValueError
        If it is no path.
    OSError
        If it is not a regular file, or its folder is missing or write-protected; the message says which.
    """
    given = as_path(path)
    place = os.path.realpath(given)
    folder = os.path.dirname(place)
    mode = os.stat(place).st_mode if os.path.lexists(place) else stat.S_IFREG
    if stat.S_ISDIR(mode) or not os.path.basename(given):
        raise IsADirectoryError(f"{given} is a folder: name a file in it")
    if not stat.S_ISREG(mode):
        raise OSError(f"{given} is no regular file, and cannot be replaced as a whole: write to another path")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder}: make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {folder} is write-protected: write to another one")
    return place


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file that replaces another once it is complete and on the disk; after an error nothing has changed.

    It is written in the same folder and renamed. A link stays a link, and its target is replaced. The mode, and for
    root the owner, are those of the old file.

    Raises
    ------
    TypeError, ValueError, OSError
        As :func:`place_of`; or if the file cannot be written, for lack of room for example.
    """
    place = place_of(path)
    folder, name = os.path.split(place)
    before = os.stat(place) if os.path.lexists(place) else None
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
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            os.unlink(temporary)


def _own_prefix() -> str:
    """Return the prefix of temporary files: it names the machine or container, whose process numbers are its own."""
    import platform

    machine = platform.node()
    with contextlib.suppress(OSError):
        machine += os.readlink("/proc/self/ns/pid")
    return f".dense_xp-{zlib.crc32(machine.encode()):08x}-"


def _clear(folder: str) -> None:
    """Remove the temporary files of processes of this machine that have ended."""
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
    if os.name == "nt":  # there os.kill(process, 0) sends Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
