"""Models on disk: one safetensors file with the weights, and the configuration as JSON in its metadata.

Nothing in a file is ever executed, nor imported by its name: layers, optimizers and schedules are looked up in
fixed tables of the package. A file is written under another name and then renamed, so that a reader sees the old or
the new one, and never half of one. It names no device: a model that was trained on a GPU loads anywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.backend import BackendError, resolve, to_numpy
from dense_xp.layers.chain import Chain
from dense_xp.layers.configured import layer_class
from dense_xp.layers.contract import with_inner
from dense_xp.layers.layer import Layer
from dense_xp.layers.own_state import own_states, refuse_closed, restore_own_states
from dense_xp.layers.placed import build_with
from dense_xp.learning.optimizers import OPTIMIZERS
from dense_xp.learning.schedules import SCHEDULES
from dense_xp.support.checks import several
from dense_xp.support.files import as_path, place_of, write_atomically
from dense_xp.support.registry import Registry
from dense_xp.support.seeds import random_state, restored
from dense_xp.support.texts import brief
from dense_xp.support.trees import flatten, merged, unflatten
from dense_xp.training.history import History

FORMAT = 1
"""Version of the metadata."""

_KEY = "dense_xp"
_WEIGHT, _STATE, _BEST, _OWN, _MEAN = "weight:", "optimizer:", "best:", "own:", "mean:"
_ARRAYS = ("best_weights", "best_own", "moving_average")  # fields of a history that hold arrays
_RULES: Registry[Any] = Registry(
    "optimizer or schedule",
    {kind.__name__: kind for kind in (*OPTIMIZERS.values(), *SCHEDULES)},
    "what save wrote",
    key="class",
    brief=False,
)


class ModelFileError(ValueError):
    """The file is not a model, is damaged, or contradicts itself; the message says which."""


# ------------------------------------------------------------------------------------- writing


def save(
    model: Layer,
    path: str | os.PathLike[str],
    *,
    training: bool = False,
    history: History | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model into one safetensors file.

    Parameters
    ----------
    model : Layer
        An initialized model.
    path : path-like
        Where to; an existing file is replaced atomically.
    training : bool, default False
        Whether to write what is needed to resume training bit for bit: the optimizer and its state, the number of
        steps, and the model's random state (without an ``rng`` of its own, a model uses NumPy's global one, which is
        not saved).
    history : History, optional
        What was measured so far; :func:`describe` returns it.
    extra : mapping of str to plain values, optional
        What else belongs to the model, such as the names of its classes: anything that JSON can hold.
        :func:`describe` returns it, and :func:`load` ignores it.

    Raises
    ------
    RuntimeError
        If the model is not initialized.
    ValueError
        If a part of it has no configuration in plain values, such as an initializer of your own; if
        `extra` is not made of plain values; or if a layer keeps its arrays to itself, see :meth:`Layer.get_state`.

    Examples
    --------
    >>> import tempfile
    >>> from dense_xp import Dense
    >>> layer = Dense(3, (2,), rng=0)
    >>> layer.initialize()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(layer, f"{folder}/layer.safetensors")
    ...     bool((load(f"{folder}/layer.safetensors").W == layer.W).all())
    True
    """
    if not isinstance(model, Layer):
        raise TypeError(f"save takes a model and a path, and the model is {model!r:.60}")
    if history is not None and not isinstance(history, History):
        raise TypeError(f"history is what fit returned, and this is {history!r:.60}")
    place_of(path)
    model.built()
    refuse_closed(model, "a model file")
    import json  # here and below: only files need it

    from safetensors.numpy import save as encoded

    arrays = {_WEIGHT + name: value for name, value in model.weights.items()}
    about: dict[str, Any] = {
        "format": FORMAT,
        "class": type(model).__name__,
        "config": _anywhere(model.get_config()),
        "dtype": model.dtype,
    }
    if own := own_states(model):
        about["own"] = _numbered(own, arrays)
    if training:
        about["optimizer"] = _RULES.written(model.optimizer)
        about["steps"] = model.steps
        if any(inner := [layer.steps for layer in with_inner(model)][1:]):  # layers trained one by one
            about["inner_steps"] = inner
        about["loss_scale"] = model.loss_scale
        about["random"] = random_state(model.rng)
        arrays |= {_STATE + name: value for name, value in flatten(model.optimizer_state).items()}
    if history is not None:
        about["history"] = {
            column.name: getattr(history, column.name)
            for column in dataclasses.fields(history)
            if column.name not in _ARRAYS
        }
        if history.best_own:
            about["best_own"] = _numbered(history.best_own, arrays)
        arrays |= {_BEST + name: value for name, value in flatten(history.best_weights or {}).items()}
        if history.moving_average is not None:
            about["averaged_steps"] = history.moving_average["steps"]
            both = {key: history.moving_average[key] for key in ("average", "weights")}
            arrays |= {_MEAN + name: value for name, value in flatten(both).items()}
    if extra is not None:
        about["extra"] = _plain(extra)
    try:
        text = json.dumps(about)
    except TypeError as error:
        raise ValueError(
            f"the model cannot be saved: {error}. Initializers, activations and optimizers must be the package's own"
        ) from None
    # safetensors writes raw memory, which must be in C order
    host = {name: np.ascontiguousarray(to_numpy(value)).reshape(tuple(value.shape)) for name, value in arrays.items()}
    write_atomically(path, encoded(host, {_KEY: text}))


def _numbered(states: Mapping[str, Mapping[str, Any]], arrays: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Add the arrays in the states of layers to `arrays`; return the states with names in the place of arrays."""
    plain: dict[str, dict[str, Any]] = {path: {} for path in states}
    for path, state in states.items():
        for key, value in state.items():
            if hasattr(value, "dtype"):
                name = f"{_OWN}{sum(known.startswith(_OWN) for known in arrays)}"
                plain[path][key], arrays[name] = name, value
            else:
                plain[path][key] = value
    return plain


def _plain(extra: Any) -> Any:
    """Return `extra` after a round trip through JSON, or raise if that changes it, such as a tuple."""
    import json

    try:
        back = json.loads(json.dumps(extra, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"extra cannot be saved: {error}") from None
    if not isinstance(back, dict) or back != extra:
        raise ValueError("extra cannot be saved: it must be a dict of plain values, with lists and texts as keys")
    return back


def _anywhere(config: Any) -> Any:
    """Return a configuration without the backend: the file is for every machine."""
    if isinstance(config, dict):
        return {key: None if key == "backend" else _anywhere(value) for key, value in config.items()}
    return [_anywhere(item) for item in config] if isinstance(config, list) else config


# ------------------------------------------------------------------------------------- reading


def load(
    path: str | os.PathLike[str], backend: Any = None, *, custom: Sequence[type[Layer]] = (), limits: bool = True
) -> Any:
    """Read a model from a file that :func:`save` wrote.

    Parameters
    ----------
    path : path-like
        The file.
    backend : str or module or Backend, optional
        Where the model lives, whatever it was trained on; by default the setting in force.
    custom : sequence of Layer classes
        Classes of your own that may occur in it.
    limits : bool, default True
        Whether to refuse a small file of a huge model: with more layers than 1,000 and one for each KiB, or nested more
        than 30 deep. Pass False if you trust the file.

    Returns
    -------
    Layer
        Initialized, with its weights; with its optimizer too, if that was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is not a model of dense_xp, is truncated, or its parts contradict each other. Nothing is executed.
    BackendError
        If the backend cannot be used.

    Examples
    --------
    >>> import tempfile
    >>> from dense_xp import Dense
    >>> layer = Dense(3, (2,), rng=0)
    >>> layer.initialize()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(layer, f"{folder}/layer.safetensors")
    ...     load(f"{folder}/layer.safetensors", backend="numpy")
    Dense(n_units=3, input_shape=(2,), backend='numpy', rng=0)
    """
    custom = several("custom", custom)
    if wrong := [kind for kind in custom if not (isinstance(kind, type) and issubclass(kind, Layer))]:
        raise TypeError(f"custom has classes of layers, and {wrong[0]!r:.60} is none")
    resolve(backend)  # an error here is not the file's
    arrays, about = _read(path)
    weights = {name.removeprefix(_WEIGHT): value for name, value in arrays.items() if name.startswith(_WEIGHT)}
    state = {name.removeprefix(_STATE): value for name, value in arrays.items() if name.startswith(_STATE)}
    with _blamed(path, "does not fit together"):
        if limits:
            _check_size([about["config"]], os.path.getsize(path))
        kind = layer_class(about["class"], custom)
        inner: dict[str, Any] = {"custom": custom} if issubclass(kind, Chain) else {}
        model = kind.from_config({**_anywhere(about["config"]), "backend": backend}, **inner)
        rule = None if about.get("optimizer") is None else _RULES.made(about["optimizer"])
        # copies: arrays in the file need not be aligned
        build_with(model, rule, unflatten({name: value.copy() for name, value in weights.items()}))
        if about.get("optimizer") is not None:
            _check_state(flatten(model.optimizer_state), state)
            home = model.built()
            placed = {name: home.asarray(value.copy(), str(value.dtype)) for name, value in state.items()}
            model.optimizer_state = merged(model.optimizer_state, unflatten(placed))
        for layer, steps in zip(with_inner(model), _steps(model, about), strict=True):
            layer.steps = steps
        model.loss_scale = _loss_scale(about.get("loss_scale", model.loss_scale))
        restore_own_states(model, _own(about.get("own", {}), arrays))
        rng = restored(about.get("random"))
        for layer in with_inner(model):
            layer.rng = rng
    return model


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a file says about its model, without making it.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    dict
        ``"class"``, ``"config"``, ``"dtype"``, ``"shapes"``; and, if they were saved, ``"optimizer"``,
        ``"steps"``, ``"history"``, a :class:`History`, and ``"extra"``.

    Raises
    ------
    FileNotFoundError, ModelFileError
        As :func:`load`.

    Examples
    --------
    >>> import tempfile
    >>> from dense_xp import Dense
    >>> layer = Dense(3, (2,), rng=0)
    >>> layer.initialize()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(layer, f"{folder}/layer.safetensors")
    ...     describe(f"{folder}/layer.safetensors")["shapes"]
    {'W': (2, 3), 'w0': (1, 3)}
    """
    arrays, about = _read(path)
    shapes = {name.removeprefix(_WEIGHT): value.shape for name, value in arrays.items() if name.startswith(_WEIGHT)}
    found: dict[str, Any] = {
        key: about[key] for key in ("class", "config", "dtype", "optimizer", "steps") if key in about
    }
    with _blamed(path, "does not fit together"):
        if "history" in about:
            found["history"] = _history(about["history"])
            best = {name.removeprefix(_BEST): value for name, value in arrays.items() if name.startswith(_BEST)}
            if best and {name: value.shape for name, value in best.items()} != shapes:
                raise ValueError("its best weights are not those of its layers")
            found["history"].best_own = _own(about.get("best_own", {}), arrays) or None
            if best or found["history"].best_own:
                found["history"].best_weights = unflatten(best)
            found["history"].moving_average = _moving_average(about.get("averaged_steps"), arrays, shapes)
        if "extra" in about:
            if not isinstance(about["extra"], dict):
                raise ValueError(f"its extra values are {about['extra']!r:.60}")
            found["extra"] = about["extra"]
    return {**found, "shapes": shapes}


@contextlib.contextmanager
def _blamed(path: str | os.PathLike[str], says: str) -> Iterator[None]:
    """Turn what a damaged file may raise into one error that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except BackendError:
        raise
    except (
        *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, OSError),
        SafetensorError,
    ) as error:
        text = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelFileError(f"{os.fspath(path)} {says}: {brief(text)}") from error


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    import json

    from safetensors import safe_open

    path = as_path(path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # FileNotFoundError, with its name
        raise ModelFileError(f"{path} is no file: a model is a file that dense_xp.save wrote")
    with _blamed(path, "is no model, or is damaged"):
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise ValueError("it is a safetensors file, but not one that dense_xp.save wrote")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        about = json.loads(text)
        version = about.get("format") if isinstance(about, dict) else None
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version!r:.40}, and this version of dense_xp reads {FORMAT}")
    for name, value in arrays.items():
        of_a_model = value.dtype.kind == "f" or (
            value.dtype in (np.int8, np.int32, np.int64) and not name.startswith(_STATE)
        )
        of_a_model |= name.startswith(_OWN) and value.dtype.kind in "biu"
        if not name.startswith((_WEIGHT, _STATE, _BEST, _OWN, _MEAN)) or not of_a_model:
            raise ModelFileError(f"{path} holds {name!r:.80} of dtype {value.dtype}, which is no part of a model")
    return arrays, about


def _check_size(config: Any, size: int) -> None:
    """Raise if a file of so many bytes describes far more layers than it holds weights of, or very deep ones."""
    most = 1000 + size // 1024
    layers, level = 0, [config]
    for _ in range(3 * 30):  # a layer made of layers is a dict with a list of dicts
        layers += sum(isinstance(value, dict) and "config" in value for value in level)
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    if level or layers > most:
        what = "layers nested more than 30 deep" if level else f"more than {most:,} layers"
        raise ValueError(f"it is a small file of {what}: pass limits=False to load if you trust it")


def _check_state(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        raise ValueError(f"its optimizer state is not that of its layers: missing {missing}, unknown {extra}")
    for name, value in found.items():
        if tuple(value.shape) != tuple(wanted[name].shape):
            shape = tuple(wanted[name].shape)
            raise ValueError(f"its optimizer state {name!r} has shape {value.shape}, and the layer needs {shape}")


def _own(plain: Any, arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Undo :func:`_numbered`."""
    if not isinstance(plain, dict) or not all(isinstance(state, dict) for state in plain.values()):
        raise ValueError(f"what its layers keep is {plain!r:.60}")
    states: dict[str, dict[str, Any]] = {path: {} for path in plain}
    for path, state in plain.items():
        for key, value in state.items():
            if not isinstance(value, bool | int | float | str) or (isinstance(value, str) and value not in arrays):
                raise ValueError(f"what its layer {path!r:.60} keeps as {key!r:.60} is {value!r:.60}")
            states[path][key] = arrays[value].copy() if isinstance(value, str) else value
    return states


def _history(config: Any) -> History:
    history = History(**config)
    for name in _ARRAYS:  # JSON does not hold them
        setattr(history, name, None)
    if not isinstance(history.metrics, dict) or not all(isinstance(x, list) for x in history.metrics.values()):
        raise ValueError("its history is not made of columns")
    numbers = [history.seconds, *(x for column in history.metrics.values() for x in column)]
    if not all(type(number) in (int, float) for number in numbers):
        raise ValueError("its history is not made of numbers")
    history.seconds = float(history.seconds)
    history.metrics = {name: [float(x) for x in column] for name, column in history.metrics.items()}
    best = 0 if history.best_epoch is None else history.best_epoch
    if not all(type(number) is int and number >= 0 for number in (best, history.samples)) or best > history.epochs:
        raise ValueError(
            f"its best epoch is {best!r:.40}, of {history.epochs}, and it has seen {history.samples!r:.40} samples"
        )
    if not isinstance(history.stopped, str) or not isinstance(history.unrecorded, str):
        raise ValueError("its history does not say why it stopped")
    return history


def _moving_average(steps: Any, arrays: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of a moving average, if it fits weights of these shapes."""
    kept = unflatten({name.removeprefix(_MEAN): value for name, value in arrays.items() if name.startswith(_MEAN)})
    if steps is None and not kept:
        return None
    average, weights = ({n: a.shape for n, a in flatten(kept.get(key, {})).items()} for key in ("average", "weights"))
    if weights != dict(shapes) or not average.items() <= weights.items() or set(kept) != {"average", "weights"}:
        raise ValueError("its moving average is not that of its layers")
    return {**kept, "steps": _count(steps)}


def _steps(model: Layer, about: Mapping[str, Any]) -> list[int]:
    """Return how many steps each layer has taken, in the order of :func:`with_inner`."""
    inner = about.get("inner_steps", [0] * (sum(1 for _ in with_inner(model)) - 1))
    if not isinstance(inner, list):
        raise ValueError(f"the steps of its layers are {inner!r:.60}")
    return [_count(value) for value in (about.get("steps", 0), *inner)]


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"its number of steps is {value!r:.40}")
    return value


def _loss_scale(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not (1.0 <= value[0] < math.inf > value[1] >= 0.0):
        raise ValueError(f"its loss scale is {value!r:.60}")
    return float(value[0]), float(value[1])
