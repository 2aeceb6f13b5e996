"""Sums of arrays over several processes by ``torch.distributed``, on any of torch's devices."""

from __future__ import annotations

from typing import Any

import torch


class ProcessGroup:
    """By the default process group, which the program has initialized for the same processes.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The processes.

    Raises
    ------
    ValueError
        If the group has other processes.
    """

    preferred = True

    def __init__(self, comm: Any) -> None:
        ours, theirs = (
            (comm.Get_rank(), comm.Get_size()),
            (torch.distributed.get_rank(), torch.distributed.get_world_size()),
        )
        if ours != theirs:
            raise ValueError(
                f"this is rank {ours[0]} of {ours[1]} for MPI and {theirs[0]} of {theirs[1]} for torch.distributed: "
                "initialize its process group with the rank and the world_size of MPI"
            )

    @staticmethod
    def unusable(local_rank: int, local_size: int) -> str:
        """Return why it cannot be used; empty if it can."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return ""
        return "torch.distributed has no process group: call  torch.distributed.init_process_group  first"

    def __call__(self, array: torch.Tensor) -> None:
        """Add up an array, in place."""
        torch.distributed.all_reduce(array)


WAYS = {"group": ProcessGroup}
"""Their names, the best first."""
