"""ONNX files: what ONNX Runtime computes from them, and what is in them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_api_compat import array_namespace

import dense_xp
from dense_xp import (
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    PiecewiseLinear,
    QuantizedDense,
    ReLU,
    RobustScale,
    Sequential,
    Softmax,
    Tanh,
    add_lora,
    quantize,
    to_numpy,
)
from dense_xp.backend import Backend
from dense_xp.interop import export_onnx
from dense_xp.interop.onnx import _unguarded
from dense_xp.layers.activations import ACTIVATIONS
from dense_xp.support.dtypes import in_dtype, widened
from tests.references import check, randomized

onnx = pytest.importorskip("onnx")
pytest.importorskip("ndonnx")
onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


LAYERS: dict[str, list[Layer]] = {name: [kind()] for name, kind in ACTIVATIONS.items() if name != "tanh"} | {
    "dense": [Dense(8)],
    "without bias": [Dense(8, use_bias=False)],
    "robust scale": [RobustScale([0.5] * 13, [2.0] * 13)],
    "layer norm": [LayerNorm(epsilon=1e-3)],
    "batch norm": [BatchNorm(epsilon=1e-4)],
    "dropout": [Dropout(0.5)],
    "network": [
        Dense(19, activation="gelu"),
        LayerNorm(),
        Dense(11, activation="relu"),
        Sequential([BatchNorm(), Dropout(0.1)], name="inner"),
        Dense(5),
        Softmax(),
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def run(path: Path, X: Any, name: str = "X") -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    (Y,) = session.run(None, {name: X})
    return Y


def network(backend: Any = "numpy", **kwargs: Any) -> Sequential:
    layers = [Dense(4, activation="silu"), BatchNorm(), Dense(3)]
    model = Sequential(layers, input_shape=(5,), backend=backend, rng=0, **kwargs)
    model.initialize()
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_onnx_runtime_is_within_the_bound(name: str, dtype: str, path: Path) -> None:
    config = Sequential(LAYERS[name]).get_config()
    model = Sequential.from_config({**config, "input_shape": (13,), "dtype": dtype, "rng": 0})
    model.initialize()
    randomized(model, RNG)
    export_onnx(model, path)
    assert not {node.op_type for node in onnx.load(path).graph.node} & {"If", "Loop", "Scan"}
    for n in (1, 7, 1000):
        X = (3 * RNG.normal(size=(n, 13))).astype(dtype)
        check(run(path, X), model, X, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_tanh_is_that_of_onnx_runtime(dtype: str, path: Path) -> None:
    """Its Tanh is off by more than the four units of round-off that are granted; the file adds nothing to that."""
    X = (3 * RNG.normal(size=(1000, 13))).astype(dtype)
    layer = Tanh(input_shape=(13,), dtype=dtype)
    layer.initialize()
    export_onnx(layer, path)
    helper = onnx.helper
    kind = helper.np_dtype_to_tensor_dtype(X.dtype)
    value = [helper.make_tensor_value_info(name, kind, ["n", 13]) for name in "XY"]
    graph = helper.make_graph([helper.make_node("Tanh", ["X"], ["Y"])], "tanh", value[:1], value[1:])
    alone = path.with_name("tanh.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), alone)
    np.testing.assert_array_equal(run(path, X), run(alone, X))
    np.testing.assert_allclose(run(path, X), np.tanh(X.astype("float64")), rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_piecewise_linear_numbers(dtype: str, path: Path) -> None:
    X = RNG.normal(size=(50, 13)).astype(dtype)
    layers = [PiecewiseLinear.from_data(X, 6), Dense(4, activation="relu"), Dense(3)]
    model = Sequential(layers, dtype=dtype, rng=0)
    model.initialize()
    export_onnx(model, path)
    rows = (3 * X).astype(dtype)
    check(run(path, rows), model, rows, dtype)


def test_a_file_says_what_it_is_told_to(path: Path) -> None:
    export_onnx(network(name="digits"), path, metadata={"unit": "m", "class": "mine"})
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert found == {"class": "mine", "name": "digits", "unit": "m"}


def test_what_is_in_the_file(path: Path) -> None:
    model = network(name="digits")
    export_onnx(model, path, input_name="pixels", output_name="scores")
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.producer_name == "dense_xp"
    assert proto.producer_version == dense_xp.__version__
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"class": "Sequential", "name": "digits"}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 21)]
    assert proto.ir_version == 10
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"pixels": ["batch", 5], "scores": ["batch", 3]}
    found = {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in proto.graph.initializer}
    assert set(found) == set(model.weights)
    for name, value in model.weights.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    assert run(path, np.ones((2, 5), "float32"), "pixels").shape == (2, 3)
    assert os.listdir(path.parent) == [path.name]


def test_every_node_is_needed(path: Path) -> None:
    export_onnx(network(), path)
    graph = onnx.load(path).graph
    read = {name for node in graph.node for name in node.input} | {"Y"}
    assert all(read.intersection(node.output) for node in graph.node)
    assert "Identity" not in {node.op_type for node in graph.node}


def test_a_condition_of_another_kind_is_not_taken_out() -> None:
    helper = onnx.helper
    value = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1])
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node("Identity", ["X"], ["out"])], name, [], [value])
        for name in ("then", "else")
    }
    for kind in ("Equal", "Greater"):
        nodes = [helper.make_node(kind, ["X", "X"], ["c"]), helper.make_node("If", ["c"], ["Y"], **branches)]
        if kind == "Equal":
            assert [node.op_type for node in _unguarded(onnx, nodes)] == ["Equal", "Identity", "Identity"]
            continue
        with pytest.raises(RuntimeError, match=r"install ndonnx 0\.23"):
            list(_unguarded(onnx, nodes))


def test_the_file_does_not_depend_on_the_backend(backend: Backend, path: Path) -> None:
    export_onnx(network(backend), path)
    expected = path.with_name("numpy.onnx")
    export_onnx(network(), expected)
    assert path.read_bytes() == expected.read_bytes()


def test_an_activation_for_the_output(path: Path) -> None:
    model = network()
    export_onnx(model, path, activation="softmax")
    X = RNG.normal(size=(7, 5)).astype("float32")
    Y = run(path, X)
    np.testing.assert_allclose(Y.sum(axis=1), 1, rtol=1e-6)
    check(Y, Sequential([model, Softmax()]), X, "float32")


def test_another_dtype_than_that_of_the_model(path: Path) -> None:
    model = network(dtype="float64")
    export_onnx(model, path, dtype="float32")
    X = RNG.normal(size=(7, 5)).astype("float32")
    check(run(path, X), model, X, "float32")


def test_bfloat16_is_written_as_float32(path: Path) -> None:
    pytest.importorskip("torch")
    model = network("torch", dtype="bfloat16")
    with pytest.raises(ValueError, match="not in bfloat16: pass dtype="):
        export_onnx(model, path)
    export_onnx(model, path, dtype="float32")
    (W,) = (i for i in onnx.load(path).graph.initializer if i.name == "dense.W")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(W), to_numpy(model.weights["dense.W"]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_weights_of_eight_bits_stay_so(dtype: str, path: Path) -> None:
    model = quantize(network(dtype=dtype))
    export_onnx(model, path)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    assert {value.dtype.name for value in weights.values()} == {"int8", dtype}
    for name, value in model.weights.items():
        np.testing.assert_array_equal(weights[name], value)
    X = RNG.normal(size=(7, 5)).astype(dtype)
    check(run(path, X), model, X, dtype, {QuantizedDense: _whole_product})


def _whole_product(layer: Any, params: Any, X: Any) -> Any:
    """Return what a quantized layer computes, without its blocks: arrays with bounds have no slices."""
    wide = widened(X)
    Z = (wide @ in_dtype(params["W"], wide.dtype)) * widened(params["scale"]) + widened(params["w0"])
    Z = in_dtype(Z, X.dtype)
    return Z if layer.activation is None else layer.activation.forward({}, Z)[0]


def test_adapters(path: Path) -> None:
    model = add_lora(network(), rank=2)
    randomized(model, RNG)
    export_onnx(model, path)
    X = RNG.normal(size=(7, 5)).astype("float32")
    check(run(path, X), model, X, "float32")


class Scale(Layer):
    def init_params(self, rng: Any) -> Any:
        return {"scale": rng.uniform(size=(1, *self.input_shape))}

    def forward(self, params: Any, X: Any, *, training: bool = False, noise: Any = None) -> Any:
        return array_namespace(X).clip(X * params["scale"], -1.0, 1.0), X

    def backward(self, params: Any, cache: Any, grad_Y: Any) -> Any:
        raise NotImplementedError


def test_a_layer_of_ones_own_with_a_pure_half(path: Path) -> None:
    model = Sequential([Scale(), Dense(3)], input_shape=(5,), rng=0)
    model.initialize()
    export_onnx(model, path)
    X = RNG.normal(size=(7, 5)).astype("float32")
    check(run(path, X), model, X, "float32")


class Stateful(Layer):
    def forward_pass(self, X: Any, training: bool = True) -> Any:
        return X

    def backward_pass(self, accum_grad: Any) -> Any:
        return accum_grad


class Reading(Scale):
    def forward(self, params: Any, X: Any, *, training: bool = False, noise: Any = None) -> Any:
        return X * float(X[0, 0]), X


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Stateful(), "^Stateful has only the stateful methods.*write forward"),
        (Sequential([Sequential([Stateful(name="mine")])]), "^mine has only the stateful methods"),
        (Reading(), r"Sequential cannot be traced .*array_namespace\(X\)"),
    ],
)
def test_what_cannot_be_traced(layer: Layer, message: str, path: Path) -> None:
    model = Sequential([Dense(3), layer], input_shape=(5,), rng=0)
    model.initialize()
    path.write_bytes(b"before")
    with pytest.raises(TypeError, match=message):
        export_onnx(model, path)
    assert path.read_bytes() == b"before"


def test_wrong_arguments(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="not initialized"):
        export_onnx(Dense(3, (2,)), path)
    layer = Dense(3, (2,))
    layer.initialize()
    for names in ({"input_name": "W"}, {"output_name": "w0"}, {"input_name": "Y"}):
        with pytest.raises(ValueError, match="share a name"):
            export_onnx(layer, path, **names)
    with pytest.raises(ValueError, match="did you mean 'softmax'"):
        export_onnx(layer, path, activation="sofmax")
    shapeless = ReLU()
    shapeless.initialize()
    with pytest.raises(RuntimeError, match="does not know its input shape"):
        export_onnx(shapeless, path)
    monkeypatch.setattr("dense_xp.interop.onnx.LIMIT", 35)
    with pytest.raises(ValueError, match="at most 2 GiB"):
        export_onnx(layer, path)
    assert not path.exists()


@pytest.mark.parametrize("missing", ["onnx", "ndonnx"])
def test_a_missing_library(missing: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Dense(3, (2,))
    layer.initialize()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf'this needs {missing}, .* pip install "dense-xp\[onnx\]"'):
        export_onnx(layer, path)
