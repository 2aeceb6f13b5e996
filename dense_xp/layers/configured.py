"""The settings that a layer is made with, and its configuration as plain values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from dense_xp.backend import Backend, get_backend
from dense_xp.layers.contract import Contract
from dense_xp.support.checks import integer
from dense_xp.support.registry import made_from, settings_of
from dense_xp.support.seeds import Rng, as_rng

_CLASSES: dict[str, type[Any]] = {}


def layer_class(name: str, custom: Sequence[type[Any]] = ()) -> type[Any]:
    """Return the layer class of that name: one of the package's own, or of those in `custom`.

    Raises
    ------
    ValueError
        If there is none. Nothing is ever imported by name.
    """
    found = {cls.__name__: cls for cls in custom} | _CLASSES
    if not isinstance(name, str) or name not in found:
        raise ValueError(f"unknown layer class {name!r}; a class of your own must be passed in custom=[...]")
    return found[name]


def layer_of(spec: Any, custom: Sequence[type[Any]] = ()) -> Any:
    """Make the layer that ``{"class": ..., "config": ...}`` stands for; classes as in :func:`layer_class`.

    Raises
    ------
    TypeError, ValueError
        If it is not such a mapping, or the class or a setting is unknown.
    """
    known = settings_of("a layer", spec, "class", "config")
    kind = layer_class(known["class"], custom)
    inner = {"custom": custom} if "custom" in inspect.signature(kind.from_config).parameters else {}
    return kind.from_config(known["config"], **inner)


@dataclass(frozen=True)
class Settings:
    """The settings that a layer is made with.

    Attributes
    ----------
    backend, dtype, rng
        As in :class:`~dense_xp.layers.layer.Layer`; None if not given.
    inherited : Settings or None
        Those of the model that contains the layer, used where its own are None.
    """

    backend: Any = None
    dtype: str | None = None
    rng: Any = None
    inherited: Settings | None = None


class Configured(Contract):
    """A layer with settings; see :class:`~dense_xp.layers.layer.Layer`."""

    settings: Settings = Settings()
    backend: Backend | None = None  # until it is initialized
    _rng: Rng = None

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] | None = None,
        name: str | None = None,
        dtype: str | None = None,
        backend: Any = None,
        rng: Any = None,
    ) -> None:
        if dtype is not None:
            if not isinstance(dtype, str):
                dtype = np.dtype(dtype).name
            if dtype not in ("float16", "bfloat16", "float32", "float64"):
                raise ValueError(f"dtype must be a real floating one such as 'float32', and is {dtype!r}")
        if not isinstance(name, str | None):
            raise TypeError(f"the name of a layer is a text, and this is {name!r:.60}")
        as_rng(rng)  # a wrong one is refused here, before anything is drawn
        self.name = name
        self.settings = Settings(backend, dtype, rng)
        if input_shape is not None:
            self.set_input_shape(input_shape)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("dense_xp."):
            _CLASSES[cls.__name__] = cls

    def set_input_shape(self, shape: tuple[int, ...]) -> None:
        """Set the shape of one sample.

        Parameters
        ----------
        shape : tuple of int
            ``(n_features,)``.

        Raises
        ------
        ValueError
            If it is not a tuple with one positive integer, or if the layer is initialized with another.
        """
        given: Any = shape if isinstance(shape, tuple | list) else (shape,)
        try:
            (n_features,) = given
            shape = (integer("n_features", n_features),)
        except ValueError:
            raise ValueError(
                f"input_shape must be (n_features,) with a positive integer, and is {shape!r}; "
                "the batch and other leading axes are not part of it"
            ) from None
        if self.backend is not None and self.input_shape not in (None, shape):
            raise ValueError(
                f"{self.layer_name()} is initialized for input_shape={self.input_shape}: make a new layer for {shape}"
            )
        self.input_shape = shape

    def setting(self, key: str) -> Any:
        """Return a setting of the layer, or of the model that it is part of: ``"backend"``, ``"dtype"``, ``"rng"``."""
        own = getattr(self.settings, key)
        return getattr(self.settings.inherited, key) if own is None and self.settings.inherited else own

    def inherit(self, backend: Backend, dtype: str, rng: Any) -> None:
        """Take the settings of a model where the layer has none of its own."""
        self.settings = replace(self.settings, inherited=Settings(backend, dtype, rng))

    @property
    def dtype(self) -> str:
        """Name of the dtype of parameters and results."""
        return self.setting("dtype") or "float32"

    @property
    def rng(self) -> Rng:
        """Source of the layer's random numbers once it is initialized; NumPy's global state without a seed."""
        return np.random if self._rng is None else self._rng

    @rng.setter
    def rng(self, rng: Rng) -> None:
        self._rng = None if rng is np.random else rng

    # ------------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs to make the same layer, as plain Python values."""
        own, backend = self.settings, self.settings.backend
        config = {
            "input_shape": self.input_shape,
            "name": self.name,
            "dtype": own.dtype,
            "backend": backend if backend is None or isinstance(backend, str) else get_backend(backend).spec,
            "rng": own.rng if isinstance(own.rng, int) else None,
        }
        return config if self.trainable else {**config, "trainable": False}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a layer from what :meth:`get_config` returned; its weights are drawn anew."""
        arguments = settings_of(cls.__name__, config)
        trainable = arguments.pop("trainable", True)
        if not isinstance(trainable, bool):
            raise TypeError(f"trainable is True or False, and this is {trainable!r:.60}")
        if isinstance(arguments.get("input_shape"), list):
            arguments["input_shape"] = tuple(arguments["input_shape"])  # JSON makes lists of tuples
        layer = made_from(cls, arguments)
        layer.trainable = trainable
        return layer

    def __repr__(self) -> str:
        defaults = {**inspect.signature(Configured).parameters, **inspect.signature(type(self)).parameters}
        said = [
            f"{key}={value!r}"
            for key, value in self.get_config().items()
            if key not in defaults or repr(value) != repr(defaults[key].default)
        ]
        return f"{type(self).__name__}({', '.join(said)})"
