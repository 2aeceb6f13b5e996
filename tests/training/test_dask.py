"""Dask: forward passes that compute nothing until they are asked to, and data larger than memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dense_xp import BatchNorm, Dense, Dropout, Layer, LayerNorm, Sequential
from dense_xp.layers.activations import ACTIVATIONS

da = pytest.importorskip("dask.array")

ROWS = 12


def untouchable(shape: tuple[int, ...], chunks: Any) -> Any:
    """Return an array that fails if any number of it is computed."""

    def fail(block: Any) -> Any:
        if block.size:  # dask itself looks at an empty block, for the type
            raise AssertionError("a value was forced")
        return block

    return da.zeros(shape, chunks=chunks, dtype="float32").map_blocks(
        fail, dtype="float32", meta=np.empty((0, 0), "f4")
    )


LAYERS: list[Any] = [
    pytest.param(lambda: Dense(5), id="dense"),
    pytest.param(lambda: Dense(5, activation="gelu", use_bias=False), id="dense_gelu"),
    pytest.param(LayerNorm, id="layer_norm"),
    pytest.param(BatchNorm, id="batch_norm"),
    *(pytest.param(kind, id=name) for name, kind in ACTIVATIONS.items()),
    pytest.param(
        lambda: Sequential([Dense(4, activation="tanh"), Dropout(0.5), LayerNorm(), Dense(2)], rng=0), id="sequential"
    ),
]


def initialized(make: Any) -> Layer:
    layer: Layer = make()
    layer.set_input_shape((3,))
    layer.initialize()
    return layer


@pytest.mark.parametrize("make", LAYERS)
def test_forward_forces_no_value(make: Any) -> None:
    layer = initialized(make)
    X = untouchable((ROWS, 3), (4, 3))
    Y, _ = layer.forward(layer.params, X)
    assert isinstance(Y, da.Array)
    assert Y.shape == (ROWS, *layer.output_shape())
    assert Y.dtype == "float32"
    with pytest.raises(AssertionError, match="a value was forced"):
        Y.compute()


@pytest.mark.parametrize("make", LAYERS)
def test_computed_it_is_what_numpy_gives(make: Any) -> None:
    layer = initialized(make)
    X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
    Y, _ = layer.forward(layer.params, da.from_array(X, chunks=(5, 3)))
    np.testing.assert_allclose(Y.compute(), layer.forward(layer.params, X)[0], rtol=1e-5, atol=1e-6)


def test_prediction_goes_block_by_block() -> None:
    """32 GB of inputs: only the blocks that are asked for ever exist, and one at a time."""
    model = Sequential([Dense(4, activation="relu"), Dense(2)], input_shape=(1000,), rng=0)
    model.initialize()
    made = []

    def block(block_info: Any = None) -> Any:
        (start, stop), _ = block_info[None]["array-location"]
        made.append(start)
        return np.full((stop - start, 1000), start % 7, dtype="float32")

    n, rows = 8_000_000, 1000
    X = da.map_blocks(block, chunks=((rows,) * (n // rows), (1000,)), dtype="float32", meta=np.empty((0, 0), "f4"))
    Y = model.predict(X)
    assert isinstance(Y, da.Array)
    assert Y.shape == (n, 2)
    assert Y.dtype == "float32"
    assert made == []
    part = Y[5_000_000:5_000_010].compute(scheduler="synchronous")
    assert made == [5_000_000]
    np.testing.assert_allclose(part, model.predict(np.full((10, 1000), 5_000_000 % 7, "float32")), rtol=1e-5, atol=1e-6)


def test_features_in_several_chunks_and_leading_axes() -> None:
    model = Sequential([Dense(2)], input_shape=(6,), rng=0)
    model.initialize()
    X = np.random.default_rng(0).normal(size=(4, 5, 6)).astype("float32")
    Y = model.predict(da.from_array(X, chunks=(3, 2, 4)))
    assert Y.shape == (4, 5, 2)
    np.testing.assert_allclose(Y.compute(), model.predict(X), rtol=1e-5, atol=1e-6)


def test_a_wrong_shape_is_refused_at_once() -> None:
    model = Sequential([Dense(2)], input_shape=(6,), rng=0)
    model.initialize()
    with pytest.raises(ValueError, match=r"X has shape \(4, 5\) and Sequential expects"):
        model.predict(da.zeros((4, 5)))


def test_blocks_without_rows_give_none() -> None:
    model = Sequential([Dense(4, activation="relu"), Dense(2)], input_shape=(3,), rng=0)
    model.initialize()
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    X = da.from_array(rows, chunks=(3, 3))
    chosen = X[da.from_array(np.arange(9) < 2, chunks=3)]  # two blocks have no rows, and nobody knows yet
    assert np.array_equal(model.predict(chosen).compute(), model.predict(rows[:2]))
    assert model.predict(rows[:0]).shape == (0, 2)
