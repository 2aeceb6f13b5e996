"""Data that come piece by piece: batches that somebody else makes, and sources that are read in pieces.

A stream of *batches* is taken as it comes: one batch is one step. A *source* hands out pieces of many rows, such as the
row groups of a file; their order and their rows are shuffled here, and they are cut into batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dense_xp.backend.blocks import BlockRows, is_chunked
from dense_xp.support.seeds import Rng


class Part(NamedTuple):
    """Some rows: inputs, targets and weights of the same samples."""

    X: Any
    y: Any = None
    weight: Any = None


class Source(Protocol):
    """Data that are read in pieces.

    Attributes
    ----------
    n_pieces : int
        How many there are.
    n_rows : int or None
        How many rows they have together, if that is known.
    shuffle_buffer : int
        The least number of rows in memory when they are shuffled.
    """

    n_pieces: int
    n_rows: int | None
    shuffle_buffer: int

    def read_pieces(self, pieces: Sequence[int] | np.ndarray[Any, Any]) -> Iterator[tuple[Any, Any, Any]]:
        """Yield inputs, targets and weights of these pieces, in this order; of a large one in several parts."""


class Batches:
    """A stream of batches that are taken as they come.

    Parameters
    ----------
    given : iterable or callable
        Batches, or a function without arguments that returns them.
    """

    whole = True

    def __init__(self, given: Any) -> None:
        self.given, self.once = given, hasattr(given, "__next__")
        self._begun: tuple[Part, Iterator[Any]] | None = None

    def count(self, batch_size: int) -> int | None:
        """Return how many batches a pass has, if that is known."""
        try:
            return len(self.given)
        except TypeError:
            return None

    def largest(self, batch_size: int) -> int:
        """Return how many rows the largest batch is expected to have: those of the first."""
        X = self.first().X
        return int(X.shape[0]) if hasattr(X, "shape") else len(X)

    def first(self) -> Part:
        """Return the first batch; the next pass begins with it."""
        if self._begun is None:
            iterator = iter(self.given() if callable(self.given) else self.given)
            if (batch := next(iterator, None)) is None:
                used_up = ": a generator serves once, so pass the function that makes it" if self.once else ""
                raise ValueError(f"the stream has no batches{used_up}")
            self._begun = _part(batch), iterator
        return self._begun[0]

    def parts(self, batch_size: int, rng: Rng | None) -> Iterator[Part]:
        """Yield the batches of one pass."""
        first = self.first()
        assert self._begun is not None
        iterator, self._begun = self._begun[1], None
        return itertools.chain([first], map(_part, iterator))


class Pieces:
    """A source whose rows are shuffled and cut into parts of whole batches.

    Parameters
    ----------
    source : Source
        What is read.
    """

    whole = once = False

    def __init__(self, source: Source) -> None:
        self.source = source

    def count(self, batch_size: int) -> int | None:
        """Return how many batches a pass has, if that is known."""
        return None if self.source.n_rows is None else -(-self.source.n_rows // batch_size)

    def largest(self, batch_size: int) -> int:
        """Return how many rows the largest batch has at most."""
        return batch_size if self.source.n_rows is None else min(batch_size, self.source.n_rows)

    def first(self) -> Part:
        """Return the first rows, to check them."""
        for part in self.source.read_pieces(range(self.source.n_pieces)):
            if len(part[0]):
                return Part(*part)
        raise ValueError("the data have no rows: there are no samples")

    def parts(self, batch_size: int, rng: Rng | None) -> Iterator[Part]:
        """Yield parts with as many rows as whole batches have, but for the last; with `rng` in a new order."""
        n = self.source.n_pieces
        order = np.arange(n) if rng is None else rng.permutation(n)  # not drawn in the thread that reads
        wanted = 1 if rng is None else self.source.shuffle_buffer
        return _read_ahead(self._cut(order, max(wanted, batch_size), batch_size))

    def _cut(self, order: np.ndarray[Any, Any], wanted: int, batch_size: int) -> Iterator[Part]:
        held: list[Part] = []
        rows = 0
        for part in self.source.read_pieces(order):
            held.append(Part(*part))
            rows += len(held[-1].X)
            if rows >= wanted:
                joined, cut = _joined(held), rows - rows % batch_size
                yield Part(*(None if values is None else values[:cut] for values in joined))
                held, rows = [Part(*(None if values is None else values[cut:] for values in joined))], rows - cut
        if rows:
            yield _joined(held)


def stream_of(X: Any, y: Any = None, weight: Any = None) -> Batches | Pieces | None:
    """Return what comes piece by piece as a stream; None for arrays.

    Raises
    ------
    TypeError, ValueError
        If targets or weights are missing, or given twice.
    """
    if is_chunked(X):
        return Pieces(BlockRows(X, y, weight))
    if not (is_stream(X) or (y is None and isinstance(X, list | tuple))):
        if y is None:
            raise TypeError(
                f"y is missing: pass fit(X, y), or a stream of batches (X, y), and not a {type(X).__name__}; for "
                "samples one by one, as a torch Dataset has them, a DataLoader makes batches"
            )
        return None
    if y is not None or weight is not None:
        raise TypeError("a stream has its targets and weights in its batches, (X, y, sample_weight): leave y out")
    return as_stream(X)


def as_stream(X: Any) -> Batches | Pieces:
    """Return what hands out batches or is read in pieces as a stream."""
    return Pieces(X) if hasattr(X, "read_pieces") else Batches(X)


def is_stream(X: Any) -> bool:
    """Whether something hands out batches, and is no array, list or table."""
    if isinstance(X, np.ndarray | list | tuple | str) or hasattr(X, "shape") or hasattr(X, "__array__"):
        return False
    return callable(X) or hasattr(X, "read_pieces") or hasattr(X, "__iter__")


def _part(batch: Any) -> Part:
    several = isinstance(batch, tuple) or (isinstance(batch, list) and batch and hasattr(batch[0], "shape"))
    if several and 1 <= len(batch) <= 3:
        return Part(*batch)
    if hasattr(batch, "shape"):
        return Part(batch)
    raise TypeError(
        "a batch of a stream is a tuple of arrays, (X, y) or (X, y, sample_weight), or X alone for predict, and this "
        f"is a {type(batch).__name__}: {batch!r:.60}"
    )


def _joined(parts: list[Part]) -> Part:
    return Part(*(None if column[0] is None else _in_rows(column) for column in zip(*parts, strict=True)))


def _in_rows(pieces: Sequence[Any]) -> Any:
    """Return pieces joined in row-major order: gathering rows of a column-major array is slow."""
    if len(pieces) == 1:
        return np.ascontiguousarray(pieces[0])
    rows = np.empty((sum(map(len, pieces)), *pieces[0].shape[1:]), np.result_type(*pieces))
    return np.concatenate(pieces, out=rows)


def _read_ahead(parts: Iterator[Any]) -> Iterator[Any]:
    """Yield parts while the next one is read by another thread."""
    from concurrent.futures import ThreadPoolExecutor  # here, because it imports as much as all of training

    with ThreadPoolExecutor(1, "dense_xp reads") as reader:
        coming = reader.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = reader.submit(next, parts, None)
            yield part
