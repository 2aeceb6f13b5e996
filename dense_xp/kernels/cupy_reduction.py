"""Sums of arrays over several processes on the devices, for CuPy: by NCCL, or by a CUDA-aware MPI."""

from __future__ import annotations

import warnings
from typing import Any

import cupy


class Nccl:
    """By NVIDIA's collective communication library: one process for each device.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The processes, for the exchange of NCCL's identifier.
    """

    preferred = True

    def __init__(self, comm: Any) -> None:
        nccl = _nccl()
        self.kinds = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        self.operation = nccl.NCCL_SUM
        identity = comm.bcast(nccl.get_unique_id() if comm.Get_rank() == 0 else None)
        self.communicator = nccl.NcclCommunicator(comm.Get_size(), identity, comm.Get_rank())

    @staticmethod
    def unusable(local_rank: int, local_size: int) -> str:
        """Return why it cannot be used; empty if it can."""
        if not _nccl().available:
            return "CuPy finds no NCCL: install nvidia-nccl-cu13, or nvidia-nccl-cu12 for CUDA 12"
        devices = cupy.cuda.runtime.getDeviceCount()
        if devices < local_size:
            return f"{local_size} processes share {devices} devices here, and NCCL wants one for each"
        return ""

    def __call__(self, array: cupy.ndarray) -> None:
        """Add up an array, in place; nothing waits for the device."""
        stream = cupy.cuda.get_current_stream()
        pointer, kind = array.data.ptr, self.kinds[array.dtype.name]
        self.communicator.allReduce(pointer, pointer, array.size, kind, self.operation, stream.ptr)


def _nccl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without NCCL, CuPy warns, and the module has only `available`
        from cupy.cuda import nccl
    return nccl


class DeviceMPI:
    """By an MPI that can read device memory (CUDA-aware).

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The processes.
    """

    preferred = False  # an MPI that is not CUDA-aware reads device addresses as host memory, and the process dies

    def __init__(self, comm: Any) -> None:
        self.comm = comm

    @staticmethod
    def unusable(local_rank: int, local_size: int) -> str:
        """Return why it cannot be used; empty as far as is known."""
        return ""

    def __call__(self, array: cupy.ndarray) -> None:
        """Add up an array, in place, once the device has computed it."""
        from mpi4py import MPI

        cupy.cuda.get_current_stream().synchronize()
        self.comm.Allreduce(MPI.IN_PLACE, array)


WAYS = {"nccl": Nccl, "mpi": DeviceMPI}
"""Their names, the best first."""
