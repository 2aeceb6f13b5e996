"""Prediction beside other libraries: ``python -m tests.benchmarks.inference [--sizes random --seed 7]``.

Networks with ReLU, their weights the same everywhere, from a NumPy array to a NumPy array. Each contender has a process
of its own, whose threads are idle while another is timed; they take turns, and medians of rounds are shown, with the
99th percentile of single rows. Each answer is held against NumPy's. Ratios are to ONNX Runtime, where it is installed.
The sizes are those below, or drawn by a seed.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dense_xp.evidence.bench import drawn
from tests.benchmarks.peers import Task

Predict = Callable[[Any], Any]

NETWORKS = [(64, 100, 10), (30, 64, 64, 1), (784, 512, 512, 10)]
ROWS = (1, 8, 32, 128, 1024, 8192)


def bare_numpy(task: Task) -> Predict:
    def predict(X: Any) -> Any:
        for W, w0 in task.weights[:-1]:
            X = np.maximum(X @ W + w0, 0)
        W, w0 = task.weights[-1]
        return X @ W + w0

    return predict


def dense_xp_model(spec: str, handle: bool = False) -> Callable[[Task], Predict]:
    def make(task: Task) -> Predict:
        from dense_xp import Dense, Sequential

        *hidden, last = task.sizes[1:]
        layers = [*(Dense(n, activation="relu", name=f"d{i}") for i, n in enumerate(hidden)), Dense(last, name="out")]
        model = Sequential(layers, input_shape=task.sizes[:1], backend=spec, rng=0)
        model.initialize()
        for layer, (W, w0) in zip(model.layers, task.weights, strict=True):
            layer.set_weights({"W": W, "w0": w0})
        return model.predictor() if handle else model.predict

    return make


def torch_inference(task: Task, compiled: bool = False) -> Predict:
    import torch

    modules: list[Any] = []
    for W, w0 in task.weights:
        linear = torch.nn.Linear(*W.shape)
        linear.weight.data.copy_(torch.from_numpy(W.T))
        linear.bias.data.copy_(torch.from_numpy(w0[0]))
        modules += [linear, torch.nn.ReLU()]
    net: Any = torch.nn.Sequential(*modules[:-1]).eval()
    if compiled:
        net = torch.compile(net)

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
    "dense_xp, predictor()": dense_xp_model("numpy", handle=True),
    "dense_xp, predict": dense_xp_model("numpy"),
    "dense_xp on torch": dense_xp_model("torch"),
    "dense_xp on jax": dense_xp_model("jax"),
    "PyTorch, inference mode": torch_inference,
    "PyTorch, torch.compile": functools.partial(torch_inference, compiled=True),
    "JAX jit": jax_jit,
    "ONNX Runtime": onnx_runtime,
    "scikit-learn MLP": sklearn_mlp,
}


def serve(name: str) -> None:
    """Time what is asked for, line by line: the sizes of a network, or how many rows for how long."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "sizes" in asked:
            task = Task.make(tuple(asked["sizes"]), asked["rows"])
            predict, expected = CONTENDERS[name](task), bare_numpy(task)(task.X)
            near = 1e-4 * float(np.max(np.abs(expected)))
            np.testing.assert_allclose(predict(task.X), expected, rtol=1e-3, atol=near)
            answer: Any = True
        else:
            answer = timed(predict, task.X[: asked["rows"]], asked["seconds"])
        print(json.dumps(answer), flush=True)


def timed(predict: Predict, X: Any, seconds: float) -> list[float]:
    """Return the median and the 99th percentile of one call."""
    for _ in range(3):
        predict(X)
    taken = []
    while sum(taken) < seconds or len(taken) < 5:
        start = time.perf_counter()
        predict(X)
        taken.append(time.perf_counter() - start)
    return [float(np.median(taken)), float(np.percentile(taken, 99))]


class Contender:
    """A process that times one of them."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.inference", "--serve", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def asked(self, **what: Any) -> Any:
        """Ask, and return the answer; None if it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline() or "null")
        except BrokenPipeError:
            return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="for each, in each round")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--sizes", choices=("chosen", "random"), default="chosen")
    parser.add_argument("--seed", type=int, default=0, help="of the sizes that are drawn")
    parser.add_argument("--count", type=int, default=10, help="how many are drawn; one row is asked for too")
    parser.add_argument("--serve", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    contenders = {name: Contender(name) for name in arguments.only}
    logarithms: dict[str, list[float]] = {name: [] for name in contenders}
    random = [(sizes, sorted({1, batch})) for sizes, batch in drawn(arguments.seed, arguments.count)]
    for sizes, batches in random if arguments.sizes == "random" else [(sizes, ROWS) for sizes in NETWORKS]:
        there = [name for name, contender in contenders.items() if contender.asked(sizes=sizes, rows=max(batches))]
        for rows in batches:
            taken: dict[str, list[Any]] = {name: [] for name in there}
            for _ in range(arguments.rounds):
                for name in there:
                    taken[name].append(contenders[name].asked(rows=rows, seconds=arguments.seconds))
            print(f"\n{'-'.join(map(str, sizes))}, {rows:,} rows")
            unit = "ONNX Runtime" if "ONNX Runtime" in there else there[0]
            for name in there:
                median, slow = (statistics.median(one[i] for one in taken[name]) for i in range(2))
                ratio = statistics.median(a[0] / b[0] for a, b in zip(taken[name], taken[unit], strict=True))
                logarithms[name].append(math.log(ratio))
                slowest = f"  99 %: {slow * 1e6:.1f}" if rows == 1 else ""
                print(f"  {name:26} {median * 1e6:12,.1f} µs {ratio:8.2f}{slowest}", flush=True)
    print("\ngeometric means, and the worst")
    for name, own in logarithms.items():
        if own:
            print(f"  {name:26} {math.exp(statistics.mean(own)):8.2f} {math.exp(max(own)):8.2f}")


if __name__ == "__main__":
    main()
