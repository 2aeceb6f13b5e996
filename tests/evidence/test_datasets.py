"""The data that come with the package."""

from __future__ import annotations

import numpy as np

from dense_xp.datasets import load_digits


def test_the_digits_are_those_of_the_source() -> None:
    images, labels = load_digits()
    assert (images.shape, images.dtype) == ((1797, 64), np.dtype("float32"))
    assert (labels.shape, labels.dtype) == ((1797,), np.dtype("int64"))
    assert (images.min(), images.max()) == (0, 1)
    np.testing.assert_array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert float((images * 16).sum(dtype="float64")) == 561718


def test_each_call_returns_arrays_of_its_own() -> None:
    load_digits()[0][:] = -1
    assert load_digits()[0].min() == 0
