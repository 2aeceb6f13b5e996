"""Settings that nobody means: each is taken, or refused where it is given by a sentence of ours.

The tests try some thousands. By hand, how many, and perhaps a seed, with a report at the end:

    python -m tests.training.test_strange_settings 50000 7
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dense_xp
from dense_xp import Adam, Dense, Dropout, Layer, LayerNorm, Loss, Metric, Optimizer, Sequential, cli, get_backend
from dense_xp.backend import BackendError
from dense_xp.layers.activations import ACTIVATIONS
from dense_xp.layers.initializers import INITIALIZERS
from dense_xp.learning.constraints import CONSTRAINTS
from dense_xp.learning.named_losses import LOSSES
from dense_xp.learning.optimizers import OPTIMIZERS
from dense_xp.learning.regularizers import REGULARIZERS
from tests.saving.test_damaged_files import NUMBERS, OTHERS, TEXTS, changed

RAW = (
    "not supported between", "unsupported operand", "has no attribute", "positional argument", "is not iterable",
    "not subscriptable", "not callable", "interpreted as an integer", "unexpected keyword", "invalid literal",
    "must be real number", "could not convert", "truth value", "unhashable", "not enough values", "too many values",
    "string indices", "list indices", "out of range:",
)  # fmt: skip
"""What Python and NumPy say where nobody looked at what was given."""

PARTS = ["numpy", "torch", "array_api_strict", "cpu", "cuda", "0", "-1", "1", "99", "1.5", ":", "::", "", " ", "auto",
         "cupy", "dpnp", "nunpy", "NumPy", "\n", "os", "os.path", "math", "..", "ä"]  # fmt: skip
OBJECTS: list[Any] = [
    np.float32(0.01), np.int64(3), np.bool_(True), np.asarray(2.0), np.asarray([1.0, 2.0]), np.float64("nan"),
    1j, b"x", lambda *_: None, Dense, int, object(), Path("x"), range(3), {1, 2}, (4,), (0,), (-1,), (True,),
    (2.5,), ("a",), (), 3, 4, 0.9, 1.5, 1e-3, -0.1, "relu", "l2", "zeros", "adam", "mse", "val_loss", "max",
    "min", "auto", "macro", "loss",
]  # fmt: skip
KINDS = [
    kind
    for kind in (getattr(dense_xp, name) for name in dense_xp.__all__)
    if isinstance(kind, type)
    and not issubclass(kind, BaseException)
    and kind.__module__.split(".")[1] in ("layers", "learning", "training", "saving")
    and kind not in (Layer, Loss, Metric, Optimizer, dense_xp.Callback, dense_xp.Run, dense_xp.History)
    and kind not in (dense_xp.Schedule, dense_xp.Regularizer, dense_xp.Ranks)  # the last would start MPI
]
REGISTRIES = [ACTIVATIONS, INITIALIZERS, CONSTRAINTS, LOSSES, OPTIMIZERS, REGULARIZERS]
X, Y = np.linspace(-1, 1, 24).reshape(6, 4), np.asarray([0, 1, 0, 1, 1, 0])


def value(rng: random.Random) -> Any:
    found = rng.choice(rng.choice([NUMBERS, TEXTS, OTHERS, OBJECTS, OBJECTS]))
    return found if callable(found) or isinstance(found, Path) else copy.deepcopy(found)


def small(value: Any) -> bool:
    """Whether nothing in it asks for much memory."""
    if isinstance(value, dict | list | tuple | set):
        return all(map(small, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | np.integer) or abs(int(value)) < 100


def constructed(rng: random.Random) -> None:
    """Make something of the package from strange arguments, and use it."""
    kind = rng.choice(KINDS)
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name == "path":
            continue
        if parameter.default is parameter.empty or rng.random() < 0.4:
            given[name] = value(rng)
    if "path" in inspect.signature(kind).parameters:
        given["path"] = "model"
    if kind is dense_xp.TensorBoard or (str(given.get("backend")) in ("auto", "cupy", "dpnp")):
        return
    thing = kind(**given)
    repr(thing)
    if not all(map(small, given.values())):
        return
    how: dict[str, Any] = {"optimizer": Adam()}
    layers: list[Layer] = [Dense(3), Dense(2)]
    if issubclass(kind, Layer):
        layers.insert(1, thing)
    elif issubclass(kind, Optimizer):
        how["optimizer"] = thing
    elif issubclass(kind, dense_xp.Schedule):
        how["optimizer"] = Adam(thing)
    elif issubclass(kind, Loss):
        how["loss"] = thing
    elif issubclass(kind, Metric):
        how["metrics"] = [thing]
    elif isinstance(thing, dense_xp.Callback):
        how["callbacks"] = [thing]
    elif issubclass(kind, dense_xp.Regularizer):
        layers[0].regularized(W=thing)
    else:
        return
    net = Sequential(layers, input_shape=(4,), rng=0)
    net.fit(X, Y, 1, 3, **how)
    net.predict(X)


def configured(rng: random.Random) -> None:
    """Make a model from a configuration in which something is wrong."""
    inner = Sequential([LayerNorm(), Dense(3, activation={"class": "ELU", "config": {"alpha": 2.0}})], name="inner")
    net = Sequential([Dense(4, activation="relu"), inner, Dropout(0.1), Dense(2)], input_shape=(4,), rng=0)
    net.layers[0].regularized(W="l2")
    config = net.get_config()
    for _ in range(rng.randrange(1, 4)):
        changed(config, rng)
    if small(list(_numbers(config))):
        Sequential.from_config({**config, "backend": None}).build((4,))


def _numbers(tree: Any) -> Any:
    if isinstance(tree, dict | list | tuple):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _numbers(item)
    else:
        yield tree


def named(rng: random.Random) -> None:
    """Ask for something by a strange name, or by a mapping."""
    registry = rng.choice(REGISTRIES)
    spec = rng.choice([value(rng), {"name": value(rng)}, {"name": rng.choice(TEXTS), rng.choice(TEXTS): value(rng)}])
    registry.made(spec)


def placed(rng: random.Random) -> None:
    """Ask for a backend by a strange name."""
    text = "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 5)))
    if "auto" not in text:
        get_backend(text if rng.random() < 0.9 else value(rng))


OPTIONS = ["--target", "--epochs", "--batch-size", "--hidden", "--dropout", "--learning-rate", "--weight-decay",
           "--seed",
           "--optimizer", "--activation", "--normalization", "--drop", "--category", "--number", "--missing", "--value",
           "--keep", "--save", "--output", "--log", "--patience", "--validation", "--backend", "--device", "--quiet",
           "--unlimited", "--help", "--version", "--decimal", "--nonsense", "-x"]  # fmt: skip
WORDS = ["d.csv", "m", "new", "y", "a", "b", "a,b", "1", "0", "-1", "2.5", "nan", "inf", "1e400", "none", "8,4", "adam",
         "relu", "layer", "", "-", "--", ",", '"', "\x1b[2J", "ä", "numpy", "numpy:cpu", "nope", "/dev/null", ".", "=",
         "9" * 30]  # fmt: skip


def commanded(rng: random.Random) -> None:
    """Start the command line with strange arguments."""
    command = rng.choice(["train", "train", "train", "predict", "evaluate", "export", "summary", "", "trian"])
    words = [command, *rng.sample(["d.csv", "m", "new"], rng.randrange(3))]
    if command == "train" and rng.random() < 0.7:
        words += ["--target", "y", "--epochs", "1", "--hidden", "3"]
    for _ in range(rng.randrange(4)):
        words += [rng.choice(OPTIONS), *[rng.choice(WORDS)] * rng.randrange(2)]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(words)
        except SystemExit as end:
            status = end.code
    assert status in (0, 2), (words, status)
    text = err.getvalue()
    assert not (status == 2 and any(raw in text for raw in RAW)), (words, text)


TRIES: list[Callable[[random.Random], None]] = [constructed, constructed, configured, named, placed, commanded]


def tried(seed: int) -> bool:
    """Try one; return whether it was taken. Any other error, and any that is not ours, is a fault of the package."""
    rng, refusal = random.Random(seed), None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            rng.choice(TRIES)(rng)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, OSError, BackendError) as error:
        refusal = error
    if refusal is None:
        return True
    ours = (ValueError, TypeError, RuntimeError, dense_xp.DivergenceError)
    assert type(refusal) in ours or isinstance(refusal, BackendError | OSError)
    assert str(refusal)
    assert not any(raw in str(refusal) for raw in RAW), str(refusal)
    return False


@contextlib.contextmanager
def workplace() -> Any:
    """Work in a folder with a table and a model."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name in ("torch", "array_api_strict"):  # an import counts for nothing
                with contextlib.suppress(BackendError):
                    get_backend(name)
            Path("d.csv").write_text("a,b,y\n" + "1.5,x,0\n2,y,1\n" * 12)
            with contextlib.redirect_stdout(io.StringIO()):
                cli.main(
                    ["train", "d.csv", "--target", "y", "--save", "m", "--epochs", "1", "--hidden", "3", "--quiet"]
                )
            yield
        finally:
            os.chdir(here)


@pytest.mark.parametrize("first", range(0, 600, 200))
def test_strange_settings_are_taken_or_refused(first: int) -> None:
    pytest.importorskip("polars")
    with workplace():
        for seed in range(first, first + 200):
            begun = time.process_time()
            tried(seed)
            assert time.process_time() - begun < 2


def main(count: int, seed: int) -> None:
    """Try so many from a seed on, and report all faults."""
    import resource

    with workplace():
        for at in range(50):
            with contextlib.suppress(Exception):
                tried(at)
        before, taken, slowest, faults = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0.0, Counter[str]()
        for at in range(seed, seed + count):
            begun = time.process_time()
            try:
                taken += tried(at)
            except Exception as error:
                said = f"{type(error).__name__}: {str(error)[:150]}"
                faults[said] += 1
                if faults[said] == 1:
                    print(f"seed {at}: {said}", flush=True)
            slowest = max(slowest, time.process_time() - begun)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{count:,} settings, {taken:,} taken, {sum(faults.values())} faults; slowest {slowest:.3f} s of the "
              f"processor, {grown:.1f} MiB more memory")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
