"""Files that are there whole or not at all."""

from __future__ import annotations

import os


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file beside its place, and rename it into that once it is on the disk.

    Parameters
    ----------
    path : path-like
        The file; one that is there is replaced.
    data : bytes
        All of it.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}")  # beside it, so that it can be renamed
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
