"""Streams: batches that come one after the other are learned from as the rows of an array are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dense_xp import (
    SGD,
    BatchNorm,
    Dense,
    Dropout,
    ParquetRows,
    Sequential,
    SoftmaxCrossEntropy,
)
from dense_xp.backend import Backend, backend_of, get_backend
from dense_xp.tables.errors import TableError

RNG = np.random.default_rng(7)
N = 53
X = RNG.normal(size=(N, 4)).astype("float32")
Y = RNG.integers(0, 3, N)
WEIGHT = RNG.uniform(0, 5, N)


def network(seed: int = 0, **settings: Any) -> Sequential:
    return Sequential([Dense(6, activation="tanh"), Dropout(0.2), Dense(3)], rng=seed, **settings)


def cut(size: int, *arrays: Any) -> Callable[[], Iterator[tuple[Any, ...]]]:
    """Return a generator function of the batches of arrays."""

    def batches() -> Iterator[tuple[Any, ...]]:
        for start in range(0, arrays[0].shape[0], size):
            stop = min(start + size, arrays[0].shape[0])
            yield tuple(array[start:stop, ...] for array in arrays)

    return batches


def assert_same_bits(one: Sequential, other: Sequential) -> None:
    for name, value in one.weights.items():
        assert np.array_equal(one.built().to_numpy(value), other.built().to_numpy(other.weights[name])), name


# ------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("weighted", [False, True])
def test_the_batches_of_an_array_give_the_bits_of_the_array(backend: Backend, weighted: bool) -> None:
    arrays = (X, Y, WEIGHT) if weighted else (X, Y)
    how: dict[str, Any] = {"epochs": 3, "metrics": ["accuracy", "f1"], "verbose": False}
    one = network(backend=backend)
    first = one.fit(*arrays[:2], batch_size=8, shuffle=False, sample_weight=WEIGHT if weighted else None, **how)
    for stream in (cut(8, *arrays), list(cut(8, *arrays)()), tuple(cut(8, *arrays)())):
        other = network(backend=backend)
        history = other.fit(stream, **how)
        assert_same_bits(one, other)
        assert history.metrics == first.metrics
        assert history.samples == first.samples == 3 * N
    assert one.evaluate(*arrays[:2], batch_size=8, sample_weight=arrays[2] if weighted else None) == other.evaluate(
        cut(8, *arrays)
    )


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 12),
    epochs=st.integers(1, 3),
    kind=st.sampled_from(["classes", "numbers"]),
    scale=st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_any_cut_gives_the_bits_of_the_array(n: int, size: int, epochs: int, kind: str, scale: float) -> None:
    y = Y[:n] if kind == "classes" else X[:n, :3] * 2
    one, other = (Sequential([Dense(5, activation="relu"), Dense(3)], rng=1) for _ in range(2))
    weight = (WEIGHT[:n] + 0.1) * scale
    first = one.fit(X[:n], y, epochs, size, shuffle=False, sample_weight=weight, verbose=False)
    second = other.fit(cut(size, X[:n], y, weight), epochs=epochs, verbose=False)
    assert_same_bits(one, other)
    assert first.metrics == second.metrics


def test_batches_on_the_device_stay_there(backend: Backend) -> None:
    model, there = network(backend=backend), backend.asarray(X, "float32")
    labels = backend.asarray(Y)
    model.fit(cut(8, there, labels), epochs=2, verbose=False)
    answer = model.predict(cut(9, there))
    assert backend_of(answer) == backend
    np.testing.assert_array_equal(backend.to_numpy(answer), backend.to_numpy(model.predict(there)))


def test_batches_that_grow(backend: Backend) -> None:
    sizes = [2, 9, 1, 30, 11]
    ends = np.cumsum(sizes)

    def batches() -> Iterator[tuple[Any, Any]]:
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            yield X[start:stop], Y[start:stop]

    layers = [Dense(6, activation="relu"), BatchNorm(), Dense(3)]
    model, by_hand = (
        Sequential(layers, backend=backend, rng=0),
        Sequential([Dense(6, activation="relu"), BatchNorm(), Dense(3)], backend=backend, rng=0),
    )
    model.fit(batches, epochs=2, optimizer=SGD(0.1, momentum=0.9), verbose=False)
    by_hand.set_input_shape((4,))
    by_hand.initialize(SGD(0.1, momentum=0.9))
    for _ in range(2):
        for rows, labels in batches():
            by_hand.fit(rows, labels, 1, len(rows), shuffle=False, verbose=False)
    for name, value in model.weights.items():
        np.testing.assert_allclose(
            backend.to_numpy(value), backend.to_numpy(by_hand.weights[name]), rtol=2e-5, atol=2e-6, err_msg=name
        )


def test_memory_that_is_filled_again_is_read_in_time(backend: Backend) -> None:
    def batches() -> Iterator[tuple[Any, Any]]:
        rows, labels = np.empty((8, 4), "float32"), np.empty(8, "int64")
        for part, y in cut(8, X[:48], Y[:48])():
            rows[:], labels[:] = part, y
            yield rows, labels

    one, other = network(backend=backend), network(backend=backend)
    one.fit(cut(8, X[:48], Y[:48]), epochs=2, verbose=False)
    other.fit(batches, epochs=2, verbose=False)
    assert_same_bits(one, other)


def test_steps_per_epoch_go_on_where_the_last_epoch_ended() -> None:
    one, other = network(), network()
    one.fit(cut(8, X, Y), epochs=3, steps_per_epoch=7, verbose=False)
    other.fit(cut(8, X, Y), epochs=3, verbose=False)  # 7 batches
    assert_same_bits(one, other)

    def endless() -> Iterator[Any]:
        while True:
            yield from cut(8, X, Y)()

    for stream in (endless(), endless, cut(8, X, Y)):
        model = network()
        history = model.fit(stream, epochs=7, steps_per_epoch=3, verbose=False)
        assert history.samples == 3 * N  # 21 batches are three passes
        assert_same_bits(model, one)


def test_a_generator_serves_once() -> None:
    network().fit(cut(8, X, Y)(), epochs=1, verbose=False)
    model = network()
    with pytest.raises(ValueError, match=r"a generator is used up after one epoch, and epochs is 2: pass the function"):
        model.fit(cut(8, X, Y)(), epochs=2)
    with pytest.raises(ValueError, match="used up after one epoch"):
        model.fit(X, Y, epochs=2, validation_data=cut(8, X, Y)())
    assert model.backend is None
    with pytest.raises(ValueError, match="ended before the last epoch had its steps_per_epoch"):
        network().fit(cut(8, X, Y)(), epochs=2, steps_per_epoch=5, verbose=False)
    used = cut(8, X, Y)()
    list(used)
    with pytest.raises(ValueError, match="no batches: a generator serves once"):
        network().fit(used, epochs=1)


def test_validation_from_a_stream() -> None:
    one, other = network(), network()
    first = one.fit(X, Y, 3, 8, validation_data=(X[:20], Y[:20], WEIGHT[:20]), metrics=["f1"], verbose=False)
    second = other.fit(X, Y, 3, 8, validation_data=cut(20, X[:20], Y[:20], WEIGHT[:20]), metrics=["f1"], verbose=False)
    assert first.metrics == second.metrics
    third = network().fit(
        X, Y, 3, 8, validation_data=cut(3, X[:20], Y[:20], WEIGHT[:20]), metrics=["f1"], verbose=False
    )
    for name, column in first.items():
        np.testing.assert_allclose(third[name], column, rtol=1e-5)


def test_weights_of_all_batches_are_in_one_unit() -> None:
    """Those of each batch are much larger than those of the batch before."""
    weight = 10.0 ** (np.arange(N) // 8)
    model = network()
    model.fit(X, Y, 1, verbose=False)
    whole = model.evaluate(X, Y, sample_weight=weight, metrics=["f1", "accuracy"])
    parts = model.evaluate(cut(8, X, Y, weight), metrics=["f1", "accuracy"])
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5)
    zero = np.where(np.arange(N) < 8, 0.0, 1.0)  # nothing counts in the first batch
    np.testing.assert_allclose(
        model.evaluate(cut(8, X, Y, zero))["loss"], model.evaluate(X[8:], Y[8:])["loss"], rtol=1e-5
    )


def test_class_weights() -> None:
    loss = SoftmaxCrossEntropy(class_weight=[1.0, 5.0, 0.5])
    one, other = network(), network()
    first = one.fit(X, Y, 2, 8, loss=loss, shuffle=False, verbose=False)
    second = other.fit(cut(8, X, Y), epochs=2, loss=loss, verbose=False)
    assert_same_bits(one, other)
    assert first.metrics == second.metrics


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.fit(X), TypeError, "y is missing: pass fit"),
        (lambda m: m.fit(5), TypeError, "y is missing: pass fit"),
        (lambda m: m.fit(cut(8, X, Y), Y), TypeError, "a stream has its targets and weights in its batches"),
        (lambda m: m.fit(cut(8, X, Y), sample_weight=WEIGHT), TypeError, "a stream has its targets and weights"),
        (lambda m: m.fit(X, Y, steps_per_epoch=2), ValueError, "steps_per_epoch is for streams"),
        (lambda m: m.fit(cut(8, X, Y), steps_per_epoch=0), ValueError, "steps_per_epoch must be a positive integer"),
        (lambda m: m.fit(cut(8, X)), TypeError, "the batches have no targets"),
        (lambda m: m.fit([{"x": X}]), TypeError, "a batch of a stream is a tuple of arrays"),
        (lambda m: m.fit(list), ValueError, "the stream has no batches"),
        (lambda m: m.fit(lambda: [(X, Y[:3])]), ValueError, "X has 53 samples and y has 3"),
        (lambda m: m.fit(X, Y, validation_data=X), ValueError, r"must be \(X, y\) or .*, or a stream"),
    ],
)
def test_what_is_no_stream_is_refused(call: Any, error: type[Exception], message: str) -> None:
    model = network()
    with pytest.raises(error, match=message):
        call(model)
    assert model.backend is None


@pytest.mark.parametrize("late", [(X[:8], Y[:8] + 3), (X[:8] * np.nan, Y[:8]), (X[:8], Y[:8], WEIGHT[:8])])
def test_a_bad_batch_leaves_the_weights_of_the_epoch_before(late: Any) -> None:
    model = network()
    model.fit(cut(8, X, Y), epochs=1, verbose=False)
    before, steps = {name: np.array(value) for name, value in model.weights.items()}, model.steps
    with pytest.raises((ValueError, TypeError)):
        model.fit(lambda: [*cut(8, X, Y)(), late], epochs=1, verbose=False)
    for name, value in before.items():
        assert np.array_equal(model.weights[name], value)
    assert model.steps == steps


def test_a_loader_of_torch() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    one = network(backend="numpy")
    one.fit(X, Y, 2, 8, shuffle=False, verbose=False)
    for spec in ("numpy", "torch"):
        other = network(backend=spec)
        other.fit(loader, epochs=2, verbose=False)
        if spec == "numpy":
            assert_same_bits(one, other)
        answer = other.predict(loader)
        assert len(answer) == N
        assert backend_of(answer) == get_backend(spec)
    with pytest.raises(TypeError, match="a DataLoader makes batches"):
        network().fit(torch.utils.data.StackDataset(torch.from_numpy(X), torch.from_numpy(Y)))


def test_prediction_of_a_stream(backend: Backend) -> None:
    model = network(backend=backend)
    model.fit(X, Y, 1, verbose=False)
    whole = model.predict(X)
    for stream in (cut(7, X), cut(7, X, Y), iter([X[:5], X[5:]])):
        answer = model.predict(stream)
        assert type(answer) is type(whole)
        np.testing.assert_allclose(answer, whole, rtol=1e-5, atol=1e-6)


def test_a_memory_map_is_read_batch_by_batch(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "X.bin", "float32", "w+", shape=X.shape)
    mapped[:] = X
    one, other = network(), network()
    one.fit(X, Y, 2, 8, verbose=False)
    other.fit(mapped, Y, 2, 8, verbose=False)
    assert_same_bits(one, other)


# ------------------------------------------------------------------------------------- Parquet


@pytest.fixture
def table(tmp_path: Path) -> Path:
    pl, parquet = pytest.importorskip("polars"), pytest.importorskip("pyarrow.parquet")
    frame = pl.DataFrame({f"x{i}": X[:, i] for i in range(4)} | {"y": Y, "w": WEIGHT})
    for name, rows in (("a", slice(0, 20)), ("b", slice(20, N))):
        parquet.write_table(frame[rows].to_arrow(), tmp_path / f"{name}.parquet", row_group_size=9)
    return tmp_path


def test_parquet_in_order_gives_the_bits_of_the_array(backend: Backend, table: Path) -> None:
    rows = ParquetRows(table, "y", weight="w")
    assert len(rows) == N
    assert rows.n_pieces == 3 + 4
    assert repr(rows) == "ParquetRows(53 rows, 4 features, target='y')"
    one, other = network(backend=backend), network(backend=backend)
    first = one.fit(X, Y, 2, 8, sample_weight=WEIGHT, shuffle=False, verbose=False)
    second = other.fit(rows, epochs=2, batch_size=8, shuffle=False, verbose=False)
    assert_same_bits(one, other)
    assert first.metrics == second.metrics
    np.testing.assert_array_equal(other.predict(rows), other.predict(X))


def test_columns_of_several_types_and_of_one_are_read_alike(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    given = {"a": np.arange(30, dtype="float32"), "b": np.arange(30) ** 2, "c": np.arange(30) % 2 == 0}
    pl.DataFrame(given).write_parquet(tmp_path / "several.parquet", row_group_size=7)
    pl.DataFrame(given).cast(pl.Float32).write_parquet(tmp_path / "one.parquet", row_group_size=7)
    for features in (["c", "a", "b"], ["b"]):
        for dtype in ("float32", "float64"):
            expected = np.stack([given[name].astype(dtype) for name in features], axis=1)
            for name in ("several", "one"):
                rows = ParquetRows(tmp_path / f"{name}.parquet", features=features, dtype=dtype)
                read = np.concatenate([part for part, _, _ in rows.read_pieces(range(rows.n_pieces))])
                assert read.dtype == dtype
                np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("buffer", [1, 20, 1000])
def test_shuffled_parquet_takes_each_row_once(table: Path, buffer: int) -> None:
    rows = ParquetRows(table, "y", features=["x0", "x1", "x2", "x3"], shuffle_buffer=buffer)
    seen: list[Any] = []

    def note(prediction: Any, target: Any) -> Any:
        seen.append(np.array(target))
        return np.zeros(())

    history = network().fit(rows, epochs=2, batch_size=8, metrics=[note], verbose=False)
    assert history.samples == 2 * N
    assert [len(batch) for batch in seen] == ([8] * 6 + [5]) * 2
    epochs = [np.concatenate(seen[:7]), np.concatenate(seen[7:])]
    for epoch in epochs:
        assert sorted(epoch) == sorted(Y)
    assert not np.array_equal(epochs[0], epochs[1])
    again = network()
    again.fit(rows, epochs=2, batch_size=8, verbose=False)
    same = network()
    same.fit(rows, epochs=2, batch_size=8, verbose=False)
    assert_same_bits(again, same)


def test_what_a_parquet_file_must_hold(table: Path) -> None:
    pl = pytest.importorskip("polars")
    with pytest.raises(TableError, match=r"there is no column 'z'"):
        ParquetRows(table, "z")
    pl.DataFrame({"a": ["x"], "y": [1.0]}).write_parquet(table.parent / "t.parquet")
    with pytest.raises(TableError, match=r"a holds values of the type .*string, and a network needs numbers"):
        ParquetRows(table.parent / "t.parquet", "y")
    pl.DataFrame({"a": [1.0, None], "y": [1.0, 2.0]}).write_parquet(table.parent / "t.parquet")
    with pytest.raises(TableError, match="a has no value in row 2: fill it in"):
        Sequential([Dense(1)]).fit(ParquetRows(table.parent / "t.parquet", "y"), verbose=False)
    pl.DataFrame({"a": [], "y": []}).write_parquet(table.parent / "t.parquet")
    with pytest.raises(TableError, match="has no rows"):
        ParquetRows(table.parent / "t.parquet", "y")
    (table.parent / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(TableError, match="cannot be read as parquet"):
        ParquetRows(table.parent / "t.parquet", "y")
    with pytest.raises(FileNotFoundError):
        ParquetRows(table / "none.parquet", "y")
    (table / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no files that end in"):
        ParquetRows(table / "empty", "y")
    pl.DataFrame({"other": [1.0]}).write_parquet(table / "c.parquet")
    with pytest.raises(TableError, match="has not the columns of"):
        ParquetRows(table, "y")


# ------------------------------------------------------------------------------------- dask


def test_blocks_of_dask(backend: Backend) -> None:
    da = pytest.importorskip("dask.array")
    one = network(backend=backend)
    one.fit(X, Y, 2, 8, sample_weight=WEIGHT, shuffle=False, verbose=False)
    blocks = da.from_array(X, chunks=(11, 3))
    for y, weight in ((da.from_array(Y, chunks=7), da.from_array(WEIGHT, chunks=30)), (Y, WEIGHT)):
        other = network(backend=backend)
        history = other.fit(blocks, y, 2, 8, sample_weight=weight, shuffle=False, verbose=False)
        assert_same_bits(one, other)
        assert history.samples == 2 * N
    shuffled = network(backend=backend)
    assert shuffled.fit(blocks, Y, 2, 8, verbose=False).samples == 2 * N
    with pytest.raises(ValueError, match="X has 53 samples and y has 50"):
        network().fit(blocks, Y[:50])
    assert abs(one.evaluate(blocks, Y)["loss"] - one.evaluate(X, Y)["loss"]) < 1e-5


def test_a_data_frame_of_dask() -> None:
    dd, pd = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    frame = dd.from_pandas(pd.DataFrame({f"x{i}": X[:, i] for i in range(4)} | {"y": Y}), npartitions=5)
    features = frame[[f"x{i}" for i in range(4)]]
    one, other = network(), network()
    one.fit(X, Y, 2, 8, shuffle=False, verbose=False)
    other.fit(features, frame["y"], 2, 8, shuffle=False, validation_data=(features, frame["y"]), verbose=False)
    assert_same_bits(one, other)
    np.testing.assert_allclose(other.predict(features).compute(), other.predict(X), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="y has not the blocks of X"):
        network().fit(features, Y)
