"""Prediction beside other libraries: ``python -m tests.benchmarks.inference``.

One network, 784-512-512-10 with ReLU, its weights the same everywhere; from a NumPy array to a NumPy array,
called in turn, medians of rounds. Each answer is held against NumPy's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.peers import PAUSE, Task

Predict = Callable[[Any], Any]


def bare_numpy(task: Task) -> Predict:
    def predict(X: Any) -> Any:
        for W, w0 in task.weights[:-1]:
            X = np.maximum(X @ W + w0, 0)
        W, w0 = task.weights[-1]
        return X @ W + w0

    return predict


def dense_xp_model(spec: str) -> Callable[[Task], Predict]:
    def make(task: Task) -> Predict:
        from dense_xp import Dense, Sequential

        *hidden, last = task.sizes[1:]
        layers = [*(Dense(n, activation="relu", name=f"d{i}") for i, n in enumerate(hidden)), Dense(last, name="out")]
        model = Sequential(layers, input_shape=task.sizes[:1], backend=spec, rng=0)
        model.initialize()
        for layer, (W, w0) in zip(model.layers, task.weights, strict=True):
            layer.set_weights({"W": W, "w0": w0})
        return lambda X: model.predict(X, batch_size=len(X))

    return make


def torch_inference(task: Task) -> Predict:
    import torch

    modules: list[Any] = []
    for W, w0 in task.weights:
        linear = torch.nn.Linear(*W.shape)
        linear.weight.data.copy_(torch.from_numpy(W.T))
        linear.bias.data.copy_(torch.from_numpy(w0[0]))
        modules += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*modules[:-1]).eval()

    def predict(X: Any) -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(X)).numpy()

    return predict


def jax_jit(task: Task) -> Predict:
    import jax
    import jax.numpy as jnp

    weights = [(jnp.array(W), jnp.array(w0)) for W, w0 in task.weights]

    @jax.jit
    def forward(X: Any) -> Any:
        for W, w0 in weights[:-1]:
            X = jax.nn.relu(X @ W + w0)
        W, w0 = weights[-1]
        return X @ W + w0

    return lambda X: np.asarray(forward(X))


def onnx_runtime(task: Task) -> Predict:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, name = [], [], "X"
    for i, (W, w0) in enumerate(task.weights):
        constants += [numpy_helper.from_array(W, f"W{i}"), numpy_helper.from_array(w0[0], f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"W{i}", f"b{i}"], [f"Z{i}"]))
        name = f"Z{i}"
        if i < len(task.weights) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"Y{i}"]))
            name = f"Y{i}"
    ends = [(key, [None, n]) for key, n in (("X", task.sizes[0]), (name, task.sizes[-1]))]
    inputs, outputs = ([helper.make_tensor_value_info(key, TensorProto.FLOAT, shape)] for key, shape in ends)
    graph = helper.make_graph(nodes, "mlp", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda X: session.run(None, {"X": X})[0]


def sklearn_mlp(task: Task) -> Predict:
    from sklearn.neural_network import MLPRegressor

    # the regressor has no softmax at its end
    model = MLPRegressor(hidden_layer_sizes=task.sizes[1:-1], max_iter=1)
    model.partial_fit(task.X[:2], np.zeros((2, task.sizes[-1]), "float32"))
    model.coefs_ = [W for W, _ in task.weights]
    model.intercepts_ = [w0[0] for _, w0 in task.weights]
    return model.predict  # type: ignore[no-any-return]


CONTENDERS: dict[str, Callable[[Task], Predict]] = {
    "bare NumPy": bare_numpy,
    "dense_xp on numpy": dense_xp_model("numpy"),
    "dense_xp on torch": dense_xp_model("torch"),
    "dense_xp on jax": dense_xp_model("jax"),
    "PyTorch, inference mode": torch_inference,
    "JAX jit": jax_jit,
    "ONNX Runtime": onnx_runtime,
    "scikit-learn MLP": sklearn_mlp,
}


def timed(predict: Predict, X: Any, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        predict(X)
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    task = Task.make((784, 512, 512, 10), 4096)
    expected = bare_numpy(task)(task.X)
    predicts: dict[str, Predict] = {}
    for name, make in CONTENDERS.items():
        try:
            predict = make(task)
            np.testing.assert_allclose(predict(task.X), expected, rtol=1e-3, atol=1e-4)
        except Exception as error:
            print(f"  {name}: left out: {type(error).__name__}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
            continue
        predicts[name] = predict
    for batch in (1, 32, 1024, 4096):
        X = task.X[:batch]
        times = max(1, int(0.05 / timed(predicts["bare NumPy"], X, 3)))
        taken: dict[str, list[float]] = {name: [] for name in predicts}
        for _ in range(arguments.rounds):
            for name, predict in predicts.items():
                time.sleep(PAUSE)
                timed(predict, X, 2)
                taken[name].append(timed(predict, X, times))
        print(f"\n{batch} samples of 784-512-512-10")
        bare = taken["bare NumPy"]
        rows = {
            name: (statistics.median(own), statistics.median(a / b for a, b in zip(own, bare, strict=True)))
            for name, own in taken.items()
        }
        for name, (seconds, ratio) in sorted(rows.items(), key=lambda item: item[1][1]):
            print(f"  {name:28} {seconds * 1e6:12,.1f} µs {ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()
