"""Check on this machine that a backend keeps the bounds of rounding error analysis.

Each case is a pure function of arrays: a layer forward and backward, a loss with its gradient, a few steps of
an optimizer. It runs on the backend, compiled as in training, and on :mod:`dense_xp.evidence.rounding`, which gives the
exact result and the bound of every entry. What counts is the worst error as a share of its bound: at most 1
by theory, whatever the device, so a larger one is a defect and not a matter of tolerance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dense_xp.backend import Array, Backend, get_backend
from dense_xp.evidence import rounding
from dense_xp.layers.activations import ACTIVATIONS
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.ensemble import DenseEnsemble, EnsembleMean
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import BatchNorm, LayerNorm
from dense_xp.layers.piecewise import PiecewiseLinear
from dense_xp.layers.scaling import RobustScale
from dense_xp.learning import losses
from dense_xp.learning.distributions import Gamma, GaussianNLL, Poisson, Quantile, Tweedie
from dense_xp.learning.optimizer import Optimizer
from dense_xp.learning.optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from dense_xp.support.trees import flatten, unflatten
from dense_xp.training.sequential import Sequential

DTYPES = ("float16", "bfloat16", "float32", "float64")

Arrays: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """One computation that is compared.

    Attributes
    ----------
    name : str
        The layer, loss or optimizer, under which results are gathered.
    shape : tuple of int
        The shape of its input.
    function : callable
        A pure function from arrays by name to arrays by name.
    inputs : dict of str to numpy.ndarray
        Its arguments, on the host.
    """

    name: str
    shape: tuple[int, ...]
    function: Callable[[Arrays], Arrays]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """The worst error in a case.

    Attributes
    ----------
    name, dtype : str
        What was computed, and in which precision.
    shape : tuple of int
        The shape of its input.
    share : float
        The largest error as a share of its bound; NaN if nothing was compared.
    output : str
        Which output it is in: ``"Y"``, ``"grad_W"`` …
    compared : int
        How many numbers were compared. Those that overflow, or whose bound is infinite, are not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    share: float
    output: str
    compared: int


# ------------------------------------------------------------------------------------- the cases


def layer_case(layer: Layer, X: Any, rng: np.random.Generator, *, training: bool = True, name: str = "") -> Case:
    """Return a layer forward and backward on a batch, with random parameters and a random gradient.

    Parameters
    ----------
    layer : Layer
        With or without parameters; its input shape is that of the batch.
    X : array_like, shape (..., n_features)
        The batch.
    rng : numpy.random.Generator
        Source of everything else.
    training : bool
        Whether this is a step of training.
    name : str
        By default that of the layer.
    """
    X = np.asarray(X, dtype="float64")
    layer.set_input_shape(X.shape[-1:])
    layer.connect()
    params = flatten(layer.init_params(rng))
    params |= {k: v + 0.1 * rng.normal(size=v.shape) for k, v in params.items() if v.dtype.kind == "f"}
    params |= {key: abs(value) for key, value in params.items() if key.endswith(("running_variance", "width", "scale"))}
    noise = layer.draw_noise(rng, X.shape)
    inputs = {"X": X, "grad_Y": rng.normal(size=(*X.shape[:-1], *layer.output_shape()))}
    inputs |= {f"param.{key}": value for key, value in params.items()}
    if noise is not None:
        inputs["noise"] = noise

    def function(arrays: Arrays) -> Arrays:
        own = unflatten({key[6:]: value for key, value in arrays.items() if key.startswith("param.")})
        Y, cache = layer.forward(own, arrays["X"], training=training, noise=arrays.get("noise"))
        grad_X, grads = layer.backward(own, cache, arrays["grad_Y"])
        results = {"Y": Y, "grad_X": grad_X} | {f"grad_{key}": value for key, value in flatten(grads).items()}
        return results | (layer.updated_buffers(cache) if training else {})

    return Case(name or layer.layer_name(), X.shape, function, inputs)


def loss_case(loss: losses.Loss, prediction: Any, target: Any, weight: Any = None) -> Case:
    """Return a loss and its gradient."""
    inputs = {"prediction": prediction, "target": target} | ({} if weight is None else {"weight": weight})

    def function(arrays: Arrays) -> Arrays:
        value, grad = loss.value_and_grad(arrays["prediction"], arrays["target"], arrays.get("weight"))
        return {"value": value, "gradient": grad}

    return Case(type(loss).__name__, np.shape(prediction), function, inputs)


def optimizer_case(optimizer: Optimizer, param: Any, grads: Any, name: str = "") -> Case:
    """Return a few steps of an optimizer on one parameter."""
    inputs = {"param": param} | {f"grad_{i}": grad for i, grad in enumerate(grads)}

    def function(arrays: Arrays) -> Arrays:
        param = arrays["param"]
        state = optimizer.init(param)
        results = {}
        for i in range(len(grads)):
            grad = optimizer.clip({"param": arrays[f"grad_{i}"]})["param"]
            param, state = optimizer.step(param, grad, state)
            results[f"step {i + 1}"] = param
        return results

    return Case(name or type(optimizer).__name__, np.shape(param), function, inputs)


SHAPES = ((1, 1, 1), (1, 5, 3), (17, 31, 13), (2, 3, 29, 7), (64, 784, 32), (3, 65536, 2))
"""Shapes of a batch followed by a number of units: one, odd, prime, leading axes, usual, a long inner sum."""


def cases(dtype: str, seed: int = 0, shapes: Iterable[tuple[int, ...]] = SHAPES) -> Iterator[Case]:
    """Yield all cases for one dtype.

    Parameters
    ----------
    dtype : str
        The numbers stay within its range.
    seed : int
        Fixes all numbers.
    shapes : iterable of tuple of int
        For the dense layer: of the batch, and the number of units at the end.
    """
    rng = np.random.default_rng(seed)
    large = {"float16": 1e2, "float64": 1e100}.get(dtype, 1e30)
    small = {"float16": 1e-3, "float64": 1e-300}.get(dtype, 1e-30)
    for *shape, n_units in shapes:
        X = rng.normal(size=shape)
        mixed = X * 10.0 ** rng.integers(-2, 3, size=shape)
        yield layer_case(Dense(n_units), mixed, rng)
        yield layer_case(Dense(n_units, use_bias=False), X * large, rng)
        yield layer_case(Dense(n_units), X * small, rng)
    line = np.concatenate([np.linspace(-12, 12, 97), [0.0, -0.0, small, -small, large, -large]])
    for kind in ACTIVATIONS.values():
        yield layer_case(kind(), line if kind.__name__ != "Softmax" else rng.normal(size=(5, 7)) * 4, rng)
    for X in (rng.normal(size=(1, 5)), rng.normal(size=(17, 31)) * 30 + 7, rng.normal(size=(3, 5, 11))):
        yield layer_case(Dropout(0.3), X, rng)
        yield layer_case(LayerNorm(), X, rng)
        yield layer_case(BatchNorm(), X, rng)
        yield layer_case(BatchNorm(), X, rng, training=False)
    for X in (rng.normal(size=(1, 6)), rng.normal(size=(17, 9)), rng.normal(size=(3, 5, 12))):
        yield layer_case(DenseEnsemble(4, 3), X, rng)
        for of in ("outputs", "softmax", "sigmoid"):
            yield layer_case(EnsembleMean(3, of), 3 * X, rng, training=False)
    for X in (rng.normal(size=(1, 3)), rng.normal(size=(17, 5)), rng.normal(size=(3, 5, 4))):
        yield layer_case(RobustScale.from_data(rng.normal(size=(29, X.shape[-1]))), X, rng)
        yield layer_case(PiecewiseLinear.from_data(rng.normal(size=(29, X.shape[-1])), 7), X, rng)
    network = Sequential([Dense(19, activation="gelu"), LayerNorm(), Dense(11, activation="relu"), Dense(5)])
    yield layer_case(network, rng.normal(size=(23, 13)), rng, name="Sequential")
    for *lead, n in ((1, 3), (33, 7), (5, 3, 10)):
        prediction, target = 3 * rng.normal(size=(*lead, n)), rng.normal(size=(*lead, n))
        labels, weight = rng.integers(0, n, lead), rng.uniform(0.5, 2, lead)
        for loss in (losses.MeanSquaredError(), losses.MeanAbsoluteError(), losses.Huber()):
            yield loss_case(loss, prediction, target)
            yield loss_case(loss, prediction, target, weight)
        yield loss_case(losses.SoftmaxCrossEntropy(), prediction, labels)
        class_weight = rng.uniform(0.5, 2, n).tolist()
        yield loss_case(losses.SoftmaxCrossEntropy(0.1, class_weight=class_weight), prediction, labels, weight)
        yield loss_case(losses.SigmoidCrossEntropy(2.0), 4 * prediction, (target > 0).astype("float64"), weight)
        amounts, pairs = np.abs(target) + 0.01, np.stack([prediction, target], axis=-1).reshape(*lead, -1)
        yield loss_case(Poisson(), prediction, np.floor(3 * amounts), weight)
        yield loss_case(Gamma(), prediction, amounts, weight)
        yield loss_case(Tweedie(), prediction, amounts, weight)
        yield loss_case(GaussianNLL(), pairs, prediction + 1, weight)
        yield loss_case(Quantile((0.1, 0.75)), pairs, prediction + 1, weight)
    for optimizer in (
        SGD(0.1, clip_value=1.0),
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        RMSprop(0.01, momentum=0.5),
        Adam(0.01, clip_norm=1.0),
        AdamW(0.01),
        Adagrad(0.1),
        Lion(0.01),
    ):
        yield optimizer_case(optimizer, rng.normal(size=(7, 5)), rng.normal(size=(3, 7, 5)))


# ------------------------------------------------------------------------------------- the comparison


def precision_of(backend: Backend, dtype: str) -> rounding.Precision:
    """Return the precision in which a backend computes in that dtype, TF32 included."""
    return rounding.tf32 if dtype == "float32" and backend.tf32 else rounding.PRECISIONS[dtype]


def measure(case: Case, backend: Backend, dtype: str) -> Result:
    """Run one case on a backend, and compare the error of every number with its bound.

    Raises
    ------
    TypeError
        If the backend has no such dtype.
    """
    precision = precision_of(backend, dtype)
    own_dtype = backend.dtype(dtype)
    with backend.scope():
        placed = {
            key: backend.asarray(value, dtype if np.asarray(value).dtype.kind == "f" else None)
            for key, value in case.inputs.items()
        }
        actual = backend.compile(case.function)(placed)
    reference = exact(case, {key: backend.to_numpy(value) for key, value in placed.items()}, precision)
    worst = Result(case.name, dtype, case.shape, math.nan, "", 0)
    for output, value in actual.items():
        if value.dtype != own_dtype:  # more digits are as wrong as fewer
            return dataclasses.replace(worst, share=math.inf, output=f"{output} is {value.dtype}")
        share, compared = share_of_bound(backend.to_numpy(value), reference[output])
        total = worst.compared + compared
        if compared and not share <= worst.share:
            worst = dataclasses.replace(worst, share=share, output=output)
        worst = dataclasses.replace(worst, compared=total)
    return worst


def exact(case: Case, inputs: dict[str, Any], precision: rounding.Precision) -> dict[str, rounding.Bounded]:
    """Return what a case gives in exact arithmetic, and the bounds of its entries."""
    with np.errstate(all="ignore"):  # an infinite bound means none
        return case.function({key: rounding.bounded(value, precision) for key, value in inputs.items()})


def share_of_bound(actual: Any, reference: rounding.Bounded) -> tuple[float, int]:
    """Return the largest error as a share of its bound, and how many numbers were compared.

    Parameters
    ----------
    actual : array_like
        What a backend computed.
    reference : Bounded
        What it should be, with bounds.

    Returns
    -------
    share : float
        At most 1 by theory; infinite if a number is not finite, or not exact where it must be.
    compared : int
        Numbers that neither overflow nor have an infinite bound.

    Raises
    ------
    AssertionError
        If the shapes differ.
    """
    if tuple(np.shape(actual)) != reference.shape:
        raise AssertionError(f"the result has shape {np.shape(actual)}, and must have {reference.shape}")
    with np.errstate(all="ignore"):
        judged = np.abs(reference.value) + reference.error <= reference.dtype.largest
        error = np.abs(np.asarray(actual).astype(reference.value.dtype) - reference.value)[judged]
        bound = reference.error[judged]
        share = np.where(error == 0, 0, np.where(np.isfinite(error), error / bound, np.inf))
    return float(np.max(share, initial=0.0)), int(share.size)


@dataclass(frozen=True)
class Row:
    """A line of the table: a layer in one dtype.

    Attributes
    ----------
    name, dtype, share, compared
        As in :class:`Result`, over all cases of that name.
    numpy_share : float or None
        The share for NumPy, where it has that dtype.
    where : str
        The output and the shape of the input in which the worst error is.
    """

    name: str
    dtype: str
    share: float
    numpy_share: float | None
    where: str
    compared: int

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.share <= 1


def table(
    backend: Backend, dtypes: Sequence[str] = DTYPES, *, seed: int = 0, verbose: bool | None = None
) -> tuple[list[Row], dict[str, str]]:
    """Run all cases on a backend, and on NumPy for comparison.

    Parameters
    ----------
    backend : Backend
        What is examined.
    dtypes : sequence of str
        In which precisions.
    seed : int
        Fixes all numbers.
    verbose : bool, optional
        Whether to show progress; by default only on a terminal.

    Returns
    -------
    rows : list of Row
        One for each layer, loss or optimizer and dtype.
    skipped : dict of str to str
        The dtypes that the backend does not have, and why.
    """
    from tqdm.auto import tqdm

    numpy = get_backend("numpy")
    skipped: dict[str, str] = {}
    work: list[tuple[Case, str]] = []
    for dtype in dtypes:
        try:
            backend.dtype(dtype)
        except TypeError as error:
            skipped[dtype] = str(error)
        else:
            work += [(case, dtype) for case in cases(dtype, seed)]
    results: dict[tuple[str, str], tuple[list[Result], list[Result]]] = {}
    for case, dtype in tqdm(work, unit="case", disable=None if verbose is None else not verbose):
        own, theirs = results.setdefault((case.name, dtype), ([], []))
        own.append(_tried(case, backend, dtype))
        if hasattr(numpy.xp, dtype):
            theirs.append(_tried(case, numpy, dtype))
    rows = []
    for (name, dtype), (own, theirs) in results.items():
        worst = max(own, key=lambda result: result.share)
        numpy_share = max((result.share for result in theirs), default=None)
        compared = sum(result.compared for result in own)
        rows.append(Row(name, dtype, worst.share, numpy_share, f"{worst.output} {worst.shape}", compared))
    return rows, skipped


def _tried(case: Case, backend: Backend, dtype: str) -> Result:
    try:
        with np.errstate(all="ignore"):  # some cases overflow on purpose
            return measure(case, backend, dtype)
    except Exception as error:  # an error is a line of the table, and does not end it
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Result(case.name, dtype, case.shape, math.inf, why, 0)
