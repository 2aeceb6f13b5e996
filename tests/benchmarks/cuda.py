"""What a CUDA device is used for, in numbers: ``python -m tests.benchmarks.cuda``.

Three tables. The first: one training step of 784-512-512-10 with batch 128 (forward, cross-entropy, backward, Adam) on
CuPy, recorded and call by call, beside PyTorch's eager step with its fused Adam and its
``torch.compile(mode="reduce-overhead")``. All start from the same weights; their losses after some steps must agree.
CuPy's step is there with cuBLASLt's epilogues too, and so is, in a table of its own, that of two layers of 8192 units:
``DENSE_XP_CUBLASLT`` stays off until they are seen to pay. The last: a layer of 8192 units on 8192 inputs with batch
8192, forward and backward, as a share of what its three bare products by cuBLAS take, for each precision, each in a
process of its own.

Times are between two events on the stream, for many steps in a row, after a warm-up, on random data; the median over
rounds in which all contenders take turns. Aims: three times as fast as PyTorch's eager step, no slower than its
compiled one, and nine tenths of the bare products' rate.
"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from dense_xp import Adam, Dense, Sequential
from dense_xp.backend import BackendError, get_backend
from dense_xp.training.fitting import repeated_step
from tests.benchmarks.peers import CHECKED_STEPS, RATE, Task

SIZES, BATCH = (784, 512, 512, 10), 128
WIDE = 8192
ROUNDS, STEPS = 15, 200
PRECISIONS = ("float32", "tf32", "float16")

Step = Callable[[], Any]


def cupy_step(task: Task, recorded: bool = True, epilogues: bool = False) -> Step:
    """Return the step that `fit` takes."""
    from dense_xp.kernels import cupy_graph

    os.environ["DENSE_XP_CUBLASLT"] = str(int(epilogues))  # read once, when a training starts
    backend = get_backend("cupy")
    layers = [Dense(n, activation="relu") for n in task.sizes[1:-1]] + [Dense(task.sizes[-1])]
    model = Sequential(layers, input_shape=task.sizes[:1], backend=backend, rng=0)
    model.initialize(Adam(RATE))
    for layer, (W, w0) in zip(model.layers, task.weights, strict=True):
        layer.set_weights({"W": W, "w0": w0})
    step = repeated_step(model, backend.asarray(task.X), backend.asarray(task.y))
    if recorded:
        return step

    def call_by_call() -> Any:
        before, cupy_graph.GRAPHS = cupy_graph.GRAPHS, 0
        try:
            return step()
        finally:
            cupy_graph.GRAPHS = before

    return call_by_call


def torch_step(task: Task, compiled: bool) -> Step:
    """Return PyTorch's step: the usual program, and the same compiled with CUDA graphs."""
    import torch

    layers: list[Any] = []
    for W, w0 in task.weights:
        linear = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(w0[0]))
        layers += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    X, y = torch.from_numpy(task.X).cuda(), torch.from_numpy(task.y).cuda()
    forward = torch.compile(model, mode="reduce-overhead") if compiled else model

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(forward(X), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def per_step(step: Step, library: str, steps: int = STEPS) -> float:
    """Return milliseconds of device time from the first of some steps to the end of the last."""
    if library == "torch":
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / steps
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record(cupy.cuda.get_current_stream())
    for _ in range(steps):
        step()
    end.record(cupy.cuda.get_current_stream())
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / steps


def small_network() -> None:
    """Print the first table."""
    task = Task.make(SIZES, BATCH)
    contenders: dict[str, tuple[Step, str]] = {
        "dense_xp on cupy": (cupy_step(task), "cupy"),
        "dense_xp on cupy, epilogues by cuBLASLt": (cupy_step(task, epilogues=True), "cupy"),
        "dense_xp on cupy, call by call": (cupy_step(task, recorded=False), "cupy"),
    }
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: nothing to compare with", file=sys.stderr)
    else:
        if torch.cuda.is_available():
            contenders["PyTorch eager, fused Adam"] = torch_step(task, False), "torch"
            contenders["PyTorch, torch.compile(reduce-overhead)"] = torch_step(task, True), "torch"
        else:
            print("this PyTorch has no CUDA: nothing to compare with", file=sys.stderr)
    losses = {name: [float(step()) for _ in range(CHECKED_STEPS)][-1] for name, (step, _) in contenders.items()}
    if max(losses.values()) - min(losses.values()) > 1e-3 * max(losses.values()):
        raise SystemExit(f"the losses after {CHECKED_STEPS} steps differ: {losses}")
    for step, library in contenders.values():
        per_step(step, library)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, (step, library) in contenders.items():
            times[name].append(per_step(step, library))
    own = times["dense_xp on cupy"]
    title = f"{'-'.join(map(str, SIZES))}, batch {BATCH}, Adam"
    print(f"\n| {title} | ms a step | times that of dense_xp |\n| --- | ---: | ---: |")
    for name, column in times.items():
        ratio = statistics.median(a / b for a, b in zip(column, own, strict=True))
        print(f"| {name} | {statistics.median(column):.4f} | {ratio:.2f} |")


def wide_network() -> None:
    """Print the second table: large layers with and without epilogues, and what those make of a NaN."""
    import cupy

    task = Task.make((WIDE, WIDE, WIDE), WIDE)
    steps = {name: cupy_step(task, epilogues=name == "by cuBLASLt") for name in ("as kernels", "by cuBLASLt")}
    times: dict[str, list[float]] = {name: [per_step(step, "cupy", 3)] for name, step in steps.items()}
    for _ in range(5):
        for name, step in steps.items():
            times[name].append(per_step(step, "cupy", 3))
    print(f"\n| {WIDE}-{WIDE}-{WIDE}, batch {WIDE}, Adam: bias, ReLU and their sums | ms a step |\n| --- | ---: |")
    for name, column in times.items():
        print(f"| {name} | {statistics.median(column[1:]):.2f} |")
    lt = importlib.import_module("dense_xp.kernels.cupy").blas_lt()
    X, W, out = (
        cupy.full((4, 4), cupy.nan, dtype="float32"),
        cupy.eye(4, dtype="float32"),
        cupy.empty((4, 4), "float32"),
    )
    done = lt.relu(X, W, cupy.zeros((1, 4), dtype="float32"), out, lt.new_mask(4, 4))
    says = ("passes a NaN on" if cupy.isnan(out).all() else "hides a NaN") if done else "is not there for 4 by 4"
    print(f"\ncuBLASLt's ReLU {says}.")


def wide_layer(precision: str) -> tuple[float, float]:
    """Return milliseconds of the layer's forward and backward pass, and of its three bare products."""
    import cupy

    dtype = "float32" if precision == "tf32" else precision
    backend = get_backend("cupy")
    layer = Dense(WIDE, (WIDE,), dtype=dtype, backend=backend, rng=0)
    layer.initialize()
    rng = np.random.default_rng(0)
    X, G = (backend.asarray(rng.standard_normal((WIDE, WIDE), "float32"), dtype) for _ in range(2))
    params = layer.params

    def passes() -> None:
        _, cache = layer.forward(params, X, training=True)
        layer.backward(params, cache, G)

    out = cupy.empty((WIDE, WIDE), dtype=X.dtype)

    def products() -> None:
        cupy.matmul(X, params["W"], out=out)
        cupy.matmul(G, params["W"].T, out=out)
        cupy.matmul(X.T, G, out=out)

    for work in (passes, products):
        per_step(work, "cupy", 3)
    pairs = [(per_step(passes, "cupy", 10), per_step(products, "cupy", 10)) for _ in range(5)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def row(precision: str) -> str:
    """Return the row of a precision in the last table."""
    ours, bare = wide_layer(precision)
    return f"| {precision} | {ours:.2f} | {6e-9 * WIDE**3 / ours:.0f} | {bare / ours:.1%} |"


def main() -> None:
    """Print the tables, or say why not."""
    try:
        backend = get_backend("cupy")
    except BackendError as error:
        raise SystemExit(f"nothing to measure: {error}") from None
    with backend.scope():
        if len(sys.argv) > 1:
            print(row(sys.argv[1]))
            return
        small_network()
        wide_network()
    print(f"\n| {WIDE} → {WIDE}, batch {WIDE}, forward and backward | ms | Tflop/s | share of the bare products |")
    print("| --- | ---: | ---: | ---: |", flush=True)
    for precision in PRECISIONS:  # CuPy reads its precision once
        environment = {**os.environ, "CUPY_TF32": "1" if precision == "tf32" else "0"}
        subprocess.run([sys.executable, "-m", "tests.benchmarks.cuda", precision], env=environment, check=True)


if __name__ == "__main__":
    main()
