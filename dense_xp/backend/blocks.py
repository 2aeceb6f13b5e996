"""Dask's arrays and data frames: known by their methods, read block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np


def is_chunked(data: Any) -> bool:
    """Whether these are data of dask: an array, a data frame or a series."""
    return hasattr(data, "__dask_graph__") and hasattr(data, "to_delayed")


def as_array(data: Any) -> Any:
    """Return a dask array; one made from a data frame has blocks of unknown lengths."""
    return data.to_dask_array() if hasattr(data, "to_dask_array") else data


def sent_once(value: Any) -> Any:
    """Return a value as one node of dask's graph: it goes to each worker once, and not with each block."""
    return import_module("dask.delayed").delayed(value, traverse=False, pure=False)


class BlockRows:
    """Arrays or data frames of the same samples, read block by block.

    Parameters
    ----------
    X, y, weight : dask array, data frame or series
        Inputs, targets and weights; `y` and `weight` may be None, or host arrays.

    Raises
    ------
    ValueError
        If their rows or their blocks differ.
    """

    shuffle_buffer = 1  # a block at a time

    def __init__(self, X: Any, y: Any, weight: Any = None) -> None:
        self.X = _whole_rows(as_array(X))
        lengths = self.X.chunks[0]
        self.n_pieces = len(lengths)
        self.n_rows = None if np.isnan(lengths).any() else int(sum(lengths))
        self._blocks = [_row_blocks(self.X), self._blocks_of(y, "y"), self._blocks_of(weight, "sample_weight")]

    def _blocks_of(self, data: Any, what: str) -> Sequence[Any]:
        if data is None:
            return [None] * self.n_pieces
        if self.n_rows is not None and not (is_chunked(data) and np.isnan(as_array(data).chunks[0]).any()):
            array = as_array(data) if is_chunked(data) else np.asarray(data)
            if len(array) != self.n_rows:
                raise ValueError(f"X has {self.n_rows} samples and {what} has {len(array)}: they must be the same")
            if isinstance(array, np.ndarray):
                return np.split(array, np.cumsum(self.X.chunks[0])[:-1])
            return _row_blocks(_whole_rows(array).rechunk({0: self.X.chunks[0]}))
        if not is_chunked(data) or len(as_array(data).chunks[0]) != self.n_pieces:
            raise ValueError(
                f"{what} has not the blocks of X, whose lengths are not known: take both from the same data frame, or "
                "find the lengths first with X.compute_chunk_sizes()"
            )
        return _row_blocks(_whole_rows(as_array(data)))

    def read_pieces(self, pieces: Sequence[int] | np.ndarray[Any, Any]) -> Iterator[tuple[Any, Any, Any]]:
        """Yield inputs, targets and weights of these blocks, in this order."""
        compute = import_module("dask.base").compute
        for i in pieces:
            X, y, weight = compute(*(blocks[i] for blocks in self._blocks))
            yield X, y, weight


def _whole_rows(array: Any) -> Any:
    return array.rechunk(dict.fromkeys(range(1, array.ndim), -1)) if array.ndim > 1 else array


def _row_blocks(array: Any) -> Sequence[Any]:
    return list(array.to_delayed().reshape(-1))
