"""One training step, side by side with everybody else's: ``python -m tests.benchmarks.peers``.

Each contender makes the same step on the same data from the same initial weights: forward, cross-entropy (or
squared error), backward, Adam. Their losses after some steps must agree, or the comparison is refused. All of
them are then called in turn, in rounds, so that whatever else the machine does hits all alike; the number is
the median over rounds of the ratio to the bare matrix products of that step in NumPy, or with ``--against`` to
one of the others. A library that is not installed is left out and named. ``pip install ".[bench]"`` installs
those that have packages for this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dense_xp.evidence.bench import drawn

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

WORK = (((784, 512, 512, 10), 128), ((1024, 2048, 2048, 1000), 512), ((64, 100, 10), 200), ((64, 64, 64, 1), 32))
RATE = 1e-3
CHECKED_STEPS = 5
PAUSE = 0.2
"""Seconds before each turn: threads of OpenBLAS look for work for an eighth of a second, and slow what follows."""


@dataclass
class Task:
    """The work that all contenders do: layer sizes, a batch, and the weights to start from."""

    sizes: tuple[int, ...]
    X: Any
    y: Any
    weights: list[tuple[Any, Any]]

    @classmethod
    def make(cls, sizes: tuple[int, ...], batch: int) -> Task:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((batch, sizes[0]), dtype="float32")
        labels = rng.integers(0, sizes[-1], size=batch)
        y = labels if sizes[-1] > 1 else rng.standard_normal((batch, 1), dtype="float32")
        weights = [
            (
                rng.uniform(-1, 1, size=(a, b)).astype("float32") / np.sqrt(a, dtype="float32"),
                np.zeros((1, b), "float32"),
            )
            for a, b in pairwise(sizes)
        ]
        return cls(sizes, X, y, weights)

    @property
    def classifies(self) -> bool:
        return self.sizes[-1] > 1


Step = Callable[[], Any]  # one step; returns the loss, perhaps still on its way
CONTENDERS: dict[str, Callable[[Task], Step]] = {}


def contender(name: str) -> Callable[[Callable[[Task], Step]], Callable[[Task], Step]]:
    def put(make: Callable[[Task], Step]) -> Callable[[Task], Step]:
        CONTENDERS[name] = make
        return make

    return put


def bare_products(task: Task, memory: Callable[..., Any] | None = None) -> Step:
    """The products of a step, with fresh outputs, or in memory of shapes that is there: what all have to compute."""
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((len(task.X), n), dtype="float32") for n in task.sizes]
    weights = [W for W, _ in task.weights]
    place = memory or (lambda shape: None)
    outputs, below = ([place(x.shape) for x in half] for half in (inputs[1:], inputs[:-1]))
    grads = [place(W.shape) for W in weights]

    def step() -> None:
        for i, W in enumerate(weights):
            np.matmul(inputs[i], W, out=outputs[i])
        for i in reversed(range(len(weights))):
            np.matmul(inputs[i].T, inputs[i + 1], out=grads[i])
            if i:
                np.matmul(inputs[i + 1], weights[i].T, out=below[i])

    return step


def _dense_xp(spec: str) -> Callable[[Task], Step]:
    def make(task: Task) -> Step:
        from dense_xp import Adam, Dense, Sequential
        from dense_xp.training import fitting as training

        *hidden, last = task.sizes[1:]
        layers = [Dense(n, activation="relu", name=f"d{i}") for i, n in enumerate(hidden)]
        model = Sequential([*layers, Dense(last, name="out")], input_shape=task.sizes[:1], backend=spec, rng=0)
        model.initialize(Adam(RATE))
        names = [layer.name for layer in model.layers]
        for name, (W, w0) in zip(names, task.weights, strict=True):
            model.set_weights({f"{name}.W": W, f"{name}.w0": w0})
        return training.repeated_step(model, task.X, task.y)

    return make


for _spec in ("numpy", "torch", "jax"):
    CONTENDERS[f"dense_xp on {_spec}"] = _dense_xp(_spec)


def _torch(task: Task, compiled: bool) -> Step:
    import torch

    modules: list[Any] = []
    for W, w0 in task.weights:
        linear = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T))
            linear.bias.copy_(torch.from_numpy(w0[0]))
        modules += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*modules[:-1])
    criterion = torch.nn.CrossEntropyLoss() if task.classifies else torch.nn.MSELoss()
    adam = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    X, y = torch.from_numpy(task.X), torch.from_numpy(task.y)

    def loss_of(X: Any, y: Any) -> Any:
        return criterion(net(X), y)

    forward = torch.compile(loss_of) if compiled else loss_of

    def step() -> Any:
        adam.zero_grad()
        loss = forward(X, y)
        loss.backward()
        adam.step()
        return loss.detach()

    return step


@contender("PyTorch eager, fused Adam")
def torch_eager(task: Task) -> Step:
    return _torch(task, False)


@contender("PyTorch, torch.compile")
def torch_compiled(task: Task) -> Step:
    return _torch(task, True)


@contender("JAX jit + optax")
def jax_optax(task: Task) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    adam = optax.adam(RATE)
    params = [(jnp.array(W), jnp.array(w0)) for W, w0 in task.weights]
    state = adam.init(params)
    X, y = jnp.array(task.X), jnp.array(task.y)

    def loss_of(params: Any, X: Any, y: Any) -> Any:
        for W, w0 in params[:-1]:
            X = jax.nn.relu(X @ W + w0)
        W, w0 = params[-1]
        Z = X @ W + w0
        if task.classifies:
            return optax.softmax_cross_entropy_with_integer_labels(Z, y).mean()
        return jnp.mean(jnp.square(Z - y))

    def update(params: Any, state: Any, X: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, X, y)
        updates, state = adam.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jax.jit(update, donate_argnums=(0, 1))
    kept = [params, state]

    def step() -> Any:
        kept[0], kept[1], loss = compiled(*kept, X, y)
        return loss

    return step


@contender("Keras 3 on JAX")
def keras_jax(task: Task) -> Step:
    import keras

    *hidden, last = task.sizes[1:]
    layers = [keras.layers.Dense(n, activation="relu") for n in hidden]
    model = keras.Sequential([keras.Input(task.sizes[:1]), *layers, keras.layers.Dense(last)])
    model.set_weights([array for W, w0 in task.weights for array in (W, w0[0])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if task.classifies else "mse"
    model.compile(keras.optimizers.Adam(RATE, epsilon=1e-8), loss)

    def step() -> Any:
        model.reset_metrics()  # else it returns the mean of all steps so far
        return model.train_on_batch(task.X, task.y)

    return step


@contender("scikit-learn MLP.partial_fit")
def sklearn_mlp(task: Task) -> Step:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind = MLPClassifier if task.classifies else MLPRegressor
    model = kind(
        hidden_layer_sizes=task.sizes[1:-1], batch_size=len(task.X), learning_rate_init=RATE, alpha=0.0, shuffle=False
    )
    y = task.y if task.classifies else task.y[:, 0]
    extra = {"classes": np.arange(task.sizes[-1])} if task.classifies else {}
    model.partial_fit(task.X, y, **extra)  # makes the arrays
    for own, (W, _) in zip(model.coefs_, task.weights, strict=True):
        own[...] = W
    for own, (_, w0) in zip(model.intercepts_, task.weights, strict=True):
        own[...] = w0[0]
    optimizer = model._optimizer
    optimizer.t = 0
    for moments in (optimizer.ms, optimizer.vs):
        for array in moments:
            array[...] = 0

    def step() -> Any:
        model.partial_fit(task.X, y)
        return model.loss_ * (1 if task.classifies else 2)  # its squared error is halved, to which Adam is blind

    return step


@contender("tinygrad, TinyJit")
def tinygrad_jit(task: Task) -> Step:
    from tinygrad import Tensor, TinyJit
    from tinygrad.helpers import TRAINING
    from tinygrad.nn.optim import Adam

    TRAINING.value = 1
    params = [[Tensor(W), Tensor(w0)] for W, w0 in task.weights]
    adam = Adam([p for pair in params for p in pair], lr=RATE)
    X, y = Tensor(task.X).realize(), Tensor(task.y).realize()

    @TinyJit
    def step() -> Any:
        adam.zero_grad()
        H = X
        for W, w0 in params[:-1]:
            H = (H @ W + w0).relu()
        Z = H @ params[-1][0] + params[-1][1]
        loss = Z.sparse_categorical_crossentropy(y) if task.classifies else (Z - y).square().mean()
        loss.backward()
        return loss.realize(*adam.schedule_step())

    return lambda: step().numpy()


@contender("MLX, compiled")
def mlx_compiled(task: Task) -> Step:
    import mlx.core as mx

    params = [mx.array(a) for pair in task.weights for a in pair]
    moments = [mx.zeros_like(p) for p in params], [mx.zeros_like(p) for p in params]
    X, y = mx.array(task.X), mx.array(task.y)
    count = mx.array(0.0)

    def loss_of(params: Any) -> Any:
        H = X
        for i in range(0, len(params) - 2, 2):
            H = mx.maximum(H @ params[i] + params[i + 1], 0)
        Z = H @ params[-2] + params[-1]
        if not task.classifies:
            return mx.mean(mx.square(Z - y))
        return mx.mean(mx.logsumexp(Z, axis=1) - mx.take_along_axis(Z, y[:, None], axis=1)[:, 0])

    @mx.compile
    def update(params: Any, m: Any, v: Any, t: Any) -> Any:
        loss, grads = mx.value_and_grad(loss_of)(params)
        t = t + 1
        m = [0.9 * a + 0.1 * g for a, g in zip(m, grads, strict=True)]
        v = [0.999 * a + 0.001 * mx.square(g) for a, g in zip(v, grads, strict=True)]
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        params = [p - RATE * (a / c1) / (mx.sqrt(b / c2) + 1e-8) for p, a, b in zip(params, m, v, strict=True)]
        return params, m, v, t, loss

    kept = [params, *moments, count]

    def step() -> Any:
        *kept[:], loss = update(*kept)
        mx.eval(kept, loss)
        return loss

    return step


# ------------------------------------------------------------------------------------- the comparison


def loss_after(step: Step, steps: int) -> float:
    for _ in range(steps):
        loss = step()
    return float(np.asarray(loss))


def timed(step: Step, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        result = step()
    if hasattr(result, "block_until_ready"):
        result.block_until_ready()
    return (time.perf_counter() - start) / times


BARE = "bare products"


def compare(
    sizes: tuple[int, ...], batch: int, names: list[str], rounds: int, against: str = BARE
) -> dict[str, dict[str, float]]:
    """Return for each contender its median time in seconds, and its median ratio to one of them."""
    task = Task.make(sizes, batch)
    steps: dict[str, Step] = {BARE: bare_products(task)} if against == BARE else {}
    reference = None
    for name in names:
        try:
            step = CONTENDERS[name](task)
            loss = loss_after(step, CHECKED_STEPS)
        except Exception as error:
            print(f"  {name}: left out: {type(error).__name__}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
            continue
        reference = loss if reference is None else reference
        if not abs(loss - reference) <= 5e-3 * abs(reference):  # Adam's first steps enlarge rounding errors
            print(f"  {name}: left out: its loss is {loss:.6f} and should be {reference:.6f}", file=sys.stderr)
            continue
        steps[name] = step
    once = timed(steps[against], 3)
    times = max(1, int(0.02 / once))
    for step in steps.values():
        timed(step, times)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(PAUSE)
            timed(step, 3)
            taken[name].append(timed(step, times))
    bare = taken[against]
    return {
        name: {
            "seconds": statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, bare, strict=True)),
        }
        for name, own in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), help="names of contenders, or parts of them")
    parser.add_argument("--without", nargs="*", default=[], help="names to leave out, or parts of them")
    parser.add_argument("--against", default=BARE, help="name of the contender that ratios are to")
    parser.add_argument("--sizes", choices=("chosen", "random"), default="chosen")
    parser.add_argument("--seed", type=int, default=0, help="of the sizes that are drawn")
    parser.add_argument("--count", type=int, default=40, help="how many are drawn")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names = [
        name
        for name in CONTENDERS
        if any(part in name for part in arguments.only) and not any(part in name for part in arguments.without)
    ]
    results = {}
    for sizes, batch in drawn(arguments.seed, arguments.count) if arguments.sizes == "random" else WORK:
        results[f"{'-'.join(map(str, sizes))}, batch {batch}"] = rows = compare(
            sizes, batch, names, arguments.rounds, arguments.against
        )
        if not arguments.json:
            print(f"\n{'-'.join(map(str, sizes))}, batch {batch}")
            for name, row in sorted(rows.items(), key=lambda item: item[1]["ratio"]):
                print(f"  {name:32} {row['seconds'] * 1e6:12,.1f} µs {row['ratio']:8.2f}", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
