"""Tables in ONNX files: ONNX Runtime takes the columns as they are, and says what `predict` says."""

from __future__ import annotations

import datetime
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pl = pytest.importorskip("polars")
onnx = pytest.importorskip("onnx")
pytest.importorskip("ndonnx")
onnxruntime = pytest.importorskip("onnxruntime")

from dense_xp import Dense, Sequential, get_backend  # noqa: E402
from dense_xp.backend import Backend  # noqa: E402
from dense_xp.interop import export_onnx  # noqa: E402
from dense_xp.interop.onnx_tables import civil, encoded, input_kinds  # noqa: E402
from dense_xp.tables import Category, Classes, Encoder, Number, Quantity, some_of  # noqa: E402

EPOCH = datetime.datetime(1970, 1, 1)


def shop() -> Any:
    """Return a table with a column of every kind, and gaps in most."""
    n, rng = 300, np.random.default_rng(0)

    def gaps(values: Any) -> list[Any]:
        return [None if i % 11 == 3 else value for i, value in enumerate(values)]

    cities = rng.choice(["Basel", "Bern", "Zug", "Chur", "Genève"], n)
    cities[5:8] = ["Oslo", "Rome", "Bonn"]  # once each: the others
    minutes = [int(m) for m in rng.integers(-6_000_000, 30_000_000, n)]
    moments = [EPOCH + datetime.timedelta(minutes=m) for m in minutes]
    return pl.DataFrame(
        {
            "size": gaps(rng.normal(1e6, 3.0, n).tolist()),
            "city": gaps(cities.tolist()),
            "count": rng.integers(-5, 2**40, n),
            "kind": rng.choice(["a", "b"], n),
            "code": rng.choice(["8001", "8002", "007"], n),
            "zip": gaps([int(z) for z in rng.choice([8001, 8002, 3000], n)]),
            "grade": rng.choice([0.5, 0.1, 1.0], n),
            "member": gaps((rng.random(n) < 0.5).tolist()),
            "paid": rng.random(n) < 0.5,
            "when": gaps(moments),
            "since": [moment.date() for moment in moments],
            "opens": gaps([moment.time() for moment in moments]),
            "left": np.where(rng.random(n) < 0.5, "yes", "no"),
            "bill": rng.normal(5000.0, 40.0, n),
        }
    )


def encoder_of(target: str) -> Encoder:
    return Encoder.fit(shop(), target, categories=["zip", "grade"])


def given(frame: Any, encoder: Encoder) -> dict[str, Any]:
    """Return the columns as a program that serves the model would: arrays of shape (n, 1)."""
    arrays = {}
    for name, kind in input_kinds(encoder).items():
        column = frame[name]
        if column.dtype == pl.Boolean:
            column = column.cast(pl.String)
        if column.dtype == pl.Date:
            column = column.cast(pl.Int32)
        elif column.dtype == pl.Datetime:
            column = column.dt.epoch("us") / 86400e6
        elif column.dtype == pl.Time:
            column = column.cast(pl.Int64) / 86400e9
        values = column.fill_null("") if kind == "utf8" else column.cast(pl.Float64)
        arrays[name] = np.array(values.to_numpy(), dtype=object if kind == "utf8" else "float64")[:, None]
    return arrays


def session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    model = os.fspath(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def features(encoder: Encoder, inputs: dict[str, Any], missing: tuple[str, ...] = ()) -> Any:
    """Return what the graph of the way to the network alone computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ndonnx as xp
    symbols = {n: xp.argument(shape=("batch", 1), dtype=getattr(xp, kind)) for n, kind in input_kinds(encoder).items()}
    graph = xp.build(symbols, {"features": encoded(xp, encoder, symbols, missing)})
    return session(graph.SerializeToString()).run(None, inputs)[0]


def network(encoder: Encoder, dtype: str = "float32", backend: Backend | None = None) -> Sequential:
    layers = [Dense(8, (len(encoder.features),), activation="tanh"), Dense(encoder.target.n_outputs)]
    model = Sequential(layers, rng=0, dtype=dtype, backend=backend)
    model.initialize()
    return model


def same(found: list[Any], wanted: Any, target: str) -> None:
    """Compare the outputs of a file with the table that `predict` writes."""
    if target == "bill":
        (values,) = found
        assert values.shape == (wanted.height, 1)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values[:, 0], wanted["bill"].to_numpy(), rtol=2e-7)
        return
    labels, shares = found
    assert labels.tolist() == wanted["left"].to_list()
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, wanted.drop("left").to_numpy(), rtol=1e-5, atol=1e-6)


def test_the_features_are_those_of_the_encoder() -> None:
    encoder, frame = encoder_of("left"), shop()
    kinds = {column.name: getattr(column, "of", column.kind) for column in encoder.columns}
    assert kinds == {
        "size": "number", "city": "text", "count": "number", "kind": "text", "code": "text", "zip": "number",
        "grade": "number", "member": "boolean", "paid": "boolean", "when": "date", "since": "date", "opens": "date",
        "bill": "number",
    }  # fmt: skip
    wanted = encoder.encode(frame)
    assert {"city: other", "city: missing", "zip: missing", "member: missing", "when: missing", "opens: missing",
            "when: month=feb", "when: weekday=Sun", "when: time of day, sine"} <= {*encoder.features}  # fmt: skip
    assert (wanted.any(axis=0)).all(), some_of(encoder.features)
    found = features(encoder, given(frame, encoder))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-7, atol=5e-7)
    whole = [i for i, name in enumerate(encoder.features) if "=" in name or ": other" in name or ": missing" in name]
    np.testing.assert_array_equal(found[:, whole], wanted[:, whole])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["left", "bill"])
def test_columns_in_and_predictions_out(target: str, dtype: str, tmp_path: Path) -> None:
    encoder, frame = encoder_of(target), shop()
    model = network(encoder, dtype)
    export_onnx(model, tmp_path / "m.onnx", table=encoder)
    asked = session(tmp_path / "m.onnx")
    described = {i.name: (i.type.removeprefix("tensor"), i.shape) for i in asked.get_inputs()}
    types = {"float64": "(double)", "utf8": "(string)"}
    assert described == {name: (types[kind], ["batch", 1]) for name, kind in input_kinds(encoder).items()}
    outputs = {o.name: (o.type.removeprefix("tensor"), o.shape) for o in asked.get_outputs()}
    real = "(float)" if dtype == "float32" else "(double)"
    assert outputs == (
        {"bill": ("(double)", ["batch", 1])}
        if target == "bill"
        else {"left": ("(string)", ["batch"]), "probabilities": (real, ["batch", 2])}
    )
    for rows in (frame, frame[:1], frame[3:4]):
        wanted = encoder.decode(model.predict(encoder.encode(rows)))
        found = asked.run(None, given(rows, encoder))
        same([x.astype("float32") if x.dtype == np.float64 and target == "left" else x for x in found], wanted, target)


def test_models_of_every_backend(backend: Backend, tmp_path: Path) -> None:
    """The bytes are those of a model on NumPy with the same weights."""
    encoder = encoder_of("left")
    model, host = network(encoder, backend=backend), network(encoder, backend=get_backend("numpy"))
    for name, weights in (("model", model), ("host", host)):
        export_onnx(weights, tmp_path / f"{name}.onnx", table=encoder)
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "host.onnx").read_bytes()


@pytest.mark.parametrize("target", ["left", "bill"])
def test_what_the_training_did_not_know(target: str, tmp_path: Path) -> None:
    """New values, other spellings, and gaps where there were none."""
    encoder = encoder_of(target)
    model = network(encoder)
    export_onnx(model, tmp_path / "m.onnx", table=encoder)
    new = shop()[:6].with_columns(
        pl.Series("size", [None, np.inf, -np.inf, np.nan, 0.0, 1e9]),
        pl.Series("city", ["Paris", "", "basel", "Genève", "Oslo", None]),
        pl.Series("count", [None, 1, 2, 3, 4, 5]),
        pl.Series("kind", [None, "c", "", "a", "b", "A"]),
        pl.Series("code", ["8001.0", "8002.", "7", "007", "007.0", "x"]),
        pl.Series("zip", [1, 8001, None, 8002, 3000, -1]),
        pl.Series("grade", [0.1, 0.5, None, 1.0, 0.25, 0.1000001]),
        pl.Series("member", ["TRUE", "False", "1", "0", "1.0", "perhaps"]),
        pl.Series("paid", ["true", None, "0.0", "yes", "FALSE", "True"]),
        pl.Series("when", [None, datetime.datetime(2400, 2, 29, 23, 59, 59), datetime.datetime(1899, 12, 31),
                           datetime.datetime(1, 1, 1), datetime.datetime(1970, 1, 1), datetime.datetime(1968, 2, 29)]),
        pl.Series("since", [None, *[datetime.date(2000, 12, 31)] * 5]),
    )  # fmt: skip
    missing = new.with_columns(pl.col("city").replace("", None), pl.col("kind").replace("", None))
    encodings = encoder.encode(missing)
    np.testing.assert_allclose(features(encoder, given(new, encoder)), encodings, rtol=2e-7, atol=2e-6)
    wanted = encoder.decode(model.predict(encodings))
    same(session(tmp_path / "m.onnx").run(None, given(new, encoder)), wanted, target)


def test_infinite_ones_are_missing() -> None:
    encoder, frame = encoder_of("left"), shop()
    inputs = given(frame, encoder)
    endless = dict(inputs)
    for name in ("size", "when", "opens"):
        gap = np.isnan(inputs[name])
        endless[name] = np.where(gap, (-1.0) ** np.cumsum(gap)[:, None] * np.inf, inputs[name])
        assert {-np.inf, np.inf} < {*endless[name].ravel()}
    np.testing.assert_array_equal(features(encoder, endless), features(encoder, inputs))


def test_marks_of_missing_values() -> None:
    columns = [Number("x", 2.0, 3.0), Category("c", ["a", "b"], other=True, missing=1), Number("y", 0.0, 1.0),
               Category("z", ["1.0", "2.5"], "number", other=True, missing=1)]  # fmt: skip
    encoder = Encoder(columns, Quantity("q", 0.0, 1.0))
    x, c = np.array([[-999.0], [5.0], [2.5]]), np.array([["-999.0"], ["-"], ["-998"]], dtype=object)
    found = features(encoder, {"x": x, "c": c, "y": x, "z": x}, ("-999", "-"))
    np.testing.assert_array_equal(found[:, 0], [0.0, 1.0, np.float32(0.5 / 3)])
    np.testing.assert_array_equal(found[:, 1:5], [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]])
    np.testing.assert_array_equal(found[:, 5], [0.0, 5.0, 2.5])
    np.testing.assert_array_equal(found[:, 6:], [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]])


@pytest.mark.parametrize("target", [Classes("y", ["a", "b"]), Quantity("y", 0.0, 1.0)])
def test_no_prediction_where_numbers_are_too_far(target: Any, tmp_path: Path) -> None:
    encoder = Encoder([Number("x", 0.0, 1e-30)], target)
    model = network(encoder)
    model.layers[0].activation = None
    export_onnx(model, tmp_path / "m.onnx", table=encoder)
    found = session(tmp_path / "m.onnx").run(None, {"x": np.array([[1e-30], [1e30]])})
    with np.errstate(all="ignore"):
        wanted = encoder.decode(model.predict(encoder.encode(pl.DataFrame({"x": [1e-30, 1e30]}))))
    assert [value is None for value in wanted["y"]] == [False, True]
    if isinstance(target, Classes):
        assert found[0].tolist() == [wanted["y"][0], ""]
    assert np.isnan(found[-1]).all(axis=1).tolist() == [False, True]


def test_names_that_are_awkward(tmp_path: Path) -> None:
    """Names of operators, of weights, of outputs, with spaces, and none."""
    names = ["Add_0", "MatMul_0", "Constant_0_output", "probabilities", "a b/ü", ""]
    encoder = Encoder([Number(name, float(i), 2.0) for i, name in enumerate(names)], Classes("Where_0", ["n", "y"]))
    model = network(encoder)
    export_onnx(model, tmp_path / "m.onnx", table=encoder)
    asked = session(tmp_path / "m.onnx")
    assert [i.name for i in asked.get_inputs()] == [*names[:-1], "(no name)"]
    assert [o.name for o in asked.get_outputs()] == ["Where_0", "probabilities_predicted"]
    frame = pl.DataFrame({name: [1.0, 2.0 * i] for i, name in enumerate(names)})
    wanted = encoder.decode(model.predict(encoder.encode(frame)))
    labels, shares = asked.run(None, {name or "(no name)": frame[name].to_numpy()[:, None] for name in names})
    assert labels.tolist() == wanted["Where_0"].to_list()
    np.testing.assert_allclose(shares, wanted.drop("Where_0").to_numpy(), rtol=1e-5)


def test_what_does_not_fit(tmp_path: Path) -> None:
    encoder = Encoder([Number("dense.W", 0.0, 1.0)], Quantity("y", 0.0, 1.0))
    path = tmp_path / "m.onnx"
    with pytest.raises(ValueError, match=r"share a name: \['dense.W'\]"):
        export_onnx(network(encoder), path, table=encoder)
    other = Encoder([Number("a", 0.0, 1.0), Number("b", 0.0, 1.0)], Quantity("y", 0.0, 1.0))
    with pytest.raises(ValueError, match=r"the table has 2 features, and the model takes rows of shape \(1,\)"):
        export_onnx(network(encoder), path, table=other)
    with pytest.raises(ValueError, match="leave out activation"):
        export_onnx(network(other), path, table=other, activation="softmax")
    large = Encoder([Category("id", [str(2**53), str(2**53 + 1)], "number")], Quantity("y", 0.0, 1.0))
    with pytest.raises(ValueError, match="id has numbers that float64 does not tell apart: export without its table"):
        export_onnx(network(large), path, table=large)
    assert not path.exists()


def test_the_calendar() -> None:
    """Each day of 10,000 years, against NumPy's."""
    days = np.arange(-719_528 - 400 * 366, 2_900_000)
    dates = days.astype("datetime64[D]")
    years, months = dates.astype("datetime64[Y]"), dates.astype("datetime64[M]")
    wanted = (years.astype(int) + 1970, months.astype(int) % 12, (days + 3) % 7, (dates - years).astype(int))
    for found, value in zip(civil(np, days.astype("float64")), wanted, strict=True):
        np.testing.assert_array_equal(found, value)
    assert all(np.isnan(part) for part in civil(np, np.float64(np.nan)))
