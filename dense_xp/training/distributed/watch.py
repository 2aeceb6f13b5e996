"""Each rank watches the process of another one on the same machine, which may end without notice."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterator

from dense_xp.training.distributed.ranks import Ranks


@contextlib.contextmanager
def watched(ranks: Ranks) -> Iterator[None]:
    """Watch the next rank on this machine: if its process ends within the block, all end.

    Launchers do so by themselves when a process is killed, but not all do when one exits with the status 0. Only on
    Linux, which has descriptors of processes; elsewhere nothing is watched.

    Parameters
    ----------
    ranks : Ranks
        All of them enter and leave the block, after :meth:`Ranks.meet`.
    """
    places = ranks.places
    neighbours = [rank for rank, (machine, _) in enumerate(places) if machine == places[ranks.rank][0]]
    next_one = neighbours[(neighbours.index(ranks.rank) + 1) % len(neighbours)]
    if next_one == ranks.rank or not hasattr(os, "pidfd_open"):
        yield
        return
    process = os.pidfd_open(places[next_one][1])
    stop, stopped = os.pipe()

    def watch() -> None:
        ready, _, _ = select.select([process, stop], [], [])
        if stop not in ready:
            ranks.abort(f"rank {next_one} of {ranks.size} (process {places[next_one][1]}) is gone")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(stopped, b".")
        thread.join()
        for descriptor in (process, stop, stopped):
            os.close(descriptor)
    ranks.comm.Barrier()  # nobody leaves while another still watches; after an error nobody waits
