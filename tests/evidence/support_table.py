"""What each array library can do: ``python -m tests.evidence.support_table [module ...]`` prints a table in Markdown.

Every case of the parity matrix runs on the library in float32, as it is, without compilation. A cell says how many
of the layer's cases are within their rounding-error bounds; below the table is what went wrong in the others, in
the library's own words.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections import Counter
from typing import Any

os.environ.setdefault("JAX_ENABLE_X64", "1")

from dense_xp import get_backend
from dense_xp.backend import Backend, BackendError, to_numpy
from dense_xp.evidence import parity

MODULES = ("numpy", "cupy", "torch", "jax", "array_api_strict", "dpnp", "dask.array", "mlx.core", "blosc2", "ndonnx")
GROUPS = {
    "Dense": ("Dense",),
    "activations": tuple(kind.__name__ for kind in parity.ACTIVATIONS.values()),
    "normalization": ("LayerNorm", "BatchNorm"),
    "Dropout": ("Dropout",),
    "a network": ("Sequential",),
    "losses": (
        "MeanSquaredError",
        "MeanAbsoluteError",
        "Huber",
        "SoftmaxCrossEntropy",
        "SigmoidCrossEntropy",
        "Quantile",
        "Poisson",
        "Gamma",
        "Tweedie",
        "GaussianNLL",
    ),
    "optimizers": ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Lion"),
}


def backend_for(name: str) -> Backend:
    """Return the backend of that name, or that of the module of that name."""
    return get_backend(name) if "." not in name and name not in ("blosc2", "ndonnx") else get_backend(_module(name))


def _module(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library has to say of its own dependencies
        return importlib.import_module(name)


def on_host(value: Any) -> Any:
    """Return the numbers of an array, by the library's own way where it exports none by the standard's."""
    if hasattr(value, "unwrap_numpy"):  # ndonnx
        return value.unwrap_numpy()
    return value[...] if type(value).__module__.startswith("blosc2") else to_numpy(value)


def outcome(case: parity.Case, backend: Backend) -> str:
    """Return an empty text if the case is within its bound, and what is wrong otherwise."""
    try:
        placed = {
            key: backend.asarray(value, "float32" if value.dtype.kind == "f" else None)
            for key, value in case.inputs.items()
        }
        actual = {key: on_host(value) for key, value in case.function(placed).items()}
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
    host = {key: on_host(value) for key, value in placed.items()}
    reference = parity.exact(case, host, parity.precision_of(backend, "float32"))
    for key, value in actual.items():
        if value.dtype != "float32":
            return f"{key} is {value.dtype}"
        share, _ = parity.share_of_bound(value, reference[key])
        if not share <= 1:
            return f"{key} is {share:.3g} times its bound away"
    return ""


def main(names: tuple[str, ...] = MODULES) -> None:
    """Print the table."""
    print("| library | version | " + " | ".join(GROUPS) + " |")
    print("| --- | --- |" + " ---: |" * len(GROUPS))
    faults: dict[str, Counter[str]] = {}
    group_of = {layer: group for group, layers in GROUPS.items() for layer in layers}
    for name in names:
        try:
            backend = backend_for(name)
        except (ImportError, BackendError) as error:
            print(f"| {name} | not measured: {str(error).splitlines()[0]} |" + " |" * len(GROUPS))
            continue
        good: Counter[str] = Counter()
        total: Counter[str] = Counter()
        faults[name] = Counter()
        for case in parity.cases("float32", shapes=parity.SHAPES[:5]):
            group = group_of[case.name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fault = outcome(case, backend)
            total[group] += 1
            good[group] += not fault
            if fault:
                faults[name][f"{case.name}: {fault}"] += 1
        version = getattr(importlib.import_module(name.partition(".")[0]), "__version__", "")
        cells = (f"{good[group]} of {total[group]}" if good[group] < total[group] else "all" for group in GROUPS)
        print(f"| {name} | {version} | " + " | ".join(cells) + " |", flush=True)
    for name, counted in faults.items():
        if counted:
            print(f"\n{name}:\n")
            for fault, times in counted.most_common(12):
                print(f"- {fault}" + (f" ({times} cases)" if times > 1 else ""))


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or MODULES)
