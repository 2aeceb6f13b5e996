"""The processes that MPI has started: their numbers, what they exchange, and how one of them ends all."""

from __future__ import annotations

import functools
import os
import pickle
import platform
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from dense_xp.backend import Backend, get_backend

REDUCTIONS = ("auto", "host", "nccl", "mpi", "group")


class RankError(RuntimeError):
    """Another process of a training could not go on; the message says which, and why.

    Attributes
    ----------
    rank : int
        Its number.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


class Ranks:
    """The processes that a launcher such as ``mpiexec`` has started, which train one model together.

    If it is made at the start of a program, any uncaught error in one process ends all of them.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        Which processes; by default all.
    reduce : {"auto", "host", "nccl", "mpi", "group"}, default "auto"
        How gradients are added up. "host": by MPI, in host memory, for every library. "nccl": by NCCL, for CuPy.
        "mpi": by an MPI that reads device memory, for CuPy. "group": by the process group of
        ``torch.distributed`` that the program has initialized, for torch. "auto" takes "group" if there is one, "nccl"
        for CuPy where each process of a machine has a device of its own, and otherwise "host".

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.
    local_rank, local_size : int
        The same among those on this machine.
    places : list of tuple
        Machine and process number of each rank, after :meth:`meet`.

    Raises
    ------
    ImportError
        If `mpi4py` is not installed, or finds no MPI.
    ValueError
        If `reduce` is none of these.

    Examples
    --------
    >>> ranks = Ranks()  # doctest: +SKIP
    >>> if ranks.root:  # doctest: +SKIP
    ...     print(f"{ranks.size} processes")
    """

    def __init__(self, comm: Any = None, *, reduce: str = "auto") -> None:
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce must be one of {', '.join(map(repr, REDUCTIONS))}, and is {reduce!r}")
        self._mpi, self.reduce = _imported(), reduce
        self.comm = (self._mpi.COMM_WORLD if comm is None else comm).Dup()
        self.rank, self.size = int(self.comm.Get_rank()), int(self.comm.Get_size())
        local = self.comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = int(local.Get_rank()), int(local.Get_size())
        local.Free()
        self.places: list[tuple[str, int]] = []
        if self.size > 1:
            self._end_all_on_errors()

    @property
    def root(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self.rank == 0

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"

    def backend(self, spec: str) -> Backend:
        """Return a backend on the device with this rank's local number, if there are several devices.

        Parameters
        ----------
        spec : str
            As in :func:`get_backend`: ``"cupy"``, ``"torch:cuda"``. More ranks than devices share them in turn.

        Examples
        --------
        >>> Ranks().backend("numpy")  # doctest: +SKIP
        Backend(name='numpy', device='cpu')
        """
        chosen = get_backend(spec)
        kind = _without_number(chosen.library.device_name(chosen.device))
        alike = [name for name in chosen.library.devices() if _without_number(name) == kind]
        if len(alike) < 2:
            return chosen
        return get_backend(f"{chosen.name}:{alike[self.local_rank % len(alike)]}")

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on each of them.

        Parameters
        ----------
        value : object
            What can be pickled.
        """
        return list(self.comm.allgather(value))

    def from_root(self, make: Callable[[], Any]) -> Any:
        """Return on all ranks what a function returns on rank 0.

        Parameters
        ----------
        make : callable
            Without arguments; called on rank 0 alone. What it returns can be pickled.

        Raises
        ------
        RankError
            If that fails. On rank 0 its own error is raised.
        """
        if self.size == 1:
            return make()
        failure, sent = None, (b"", "")
        if self.root:
            try:
                sent = pickle.dumps(make()), ""
            except Exception as error:
                failure, sent = error, (b"", in_a_line(error))
        data, why = self.comm.bcast(sent)
        if failure is not None:
            raise failure
        if why:
            raise RankError(f"rank 0 of {self.size}: {why}", 0)
        return pickle.loads(data)

    def meet(self, quiet: bool) -> None:
        """Exchange machines and process numbers, once; rank 0 prints them, as launchers name processes by number.

        Parameters
        ----------
        quiet : bool
            Whether nothing is printed.
        """
        if self.places:
            return
        self.places = self.gathered((platform.node(), os.getpid()))
        if self.root and self.size > 1 and not quiet:
            told = ", ".join(f"rank {rank} is {number} on {node}" for rank, (node, number) in enumerate(self.places))
            print(f"dense_xp: training on {self.size} processes: {told}", file=sys.stderr, flush=True)

    def sum(self, array: np.ndarray[Any, Any]) -> None:
        """Add up the arrays of all ranks, in place.

        Parameters
        ----------
        array : numpy.ndarray
            Contiguous, of the same shape and dtype on each.
        """
        self.comm.Allreduce(self._mpi.IN_PLACE, array)

    def abort(self, error: BaseException | str) -> None:
        """End all ranks, and print which one did, and why.

        Parameters
        ----------
        error : BaseException or str
            The cause.
        """
        why = error if isinstance(error, str) else in_a_line(error)
        print(f"dense_xp: rank {self.rank} of {self.size} ended the training: {why}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        time.sleep(0.2)  # so that the launcher passes on what was said before it ends everything
        self.comm.Abort(1)

    def _end_all_on_errors(self) -> None:
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            before(kind, error, trace)
            self.abort(error)

        sys.excepthook = hook


def in_a_line(error: BaseException) -> str:
    r"""Return kind and message of an error in one line.

    Examples
    --------
    >>> in_a_line(ValueError("it is\n3"))
    'ValueError: it is 3'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _without_number(device: str) -> str:
    return device.rstrip("0123456789")


@functools.cache
def all_ranks() -> Ranks:
    """Return all processes: the same object at each call, as MPI has only a limited number of communicators."""
    return Ranks()


def _imported() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f'distributed training needs mpi4py and an MPI ({in_a_line(error)}): pip install "dense-xp[mpi]", and '
            "start the program with  mpiexec -n 4 python train.py"
        ) from error
    return MPI
