"""Objects chosen by name: losses, optimizers, penalties, constraints, initializers, activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from dense_xp.support.texts import nearest

T = TypeVar("T")


def by_name(kind: str, known: Mapping[str, T], name: str, otherwise: str = "") -> T:
    """Return the object of this name.

    Parameters
    ----------
    kind : str
        What it is, for the error: ``"loss"``.
    known : mapping of str to object
        Everything by name.
    name : str
        The name that was asked for.
    otherwise : str
        What else is accepted, for the error.

    Raises
    ------
    ValueError
        If the name is unknown; the message has the nearest known name, and all of them.

    Examples
    --------
    >>> by_name("number", {"one": 1, "two": 2}, "two")
    2
    """
    if isinstance(name, str) and name in known:
        return known[name]
    near = nearest(str(name), known, 0.4)
    raise ValueError(
        f"unknown {kind} {name!r}"
        + (f"; did you mean {near!r}?" if near else ".")
        + f" Known: {', '.join(known)}{otherwise}"
    )


def settings_of(what: str, given: Any, *needed: str) -> dict[str, Any]:
    """Return settings by name as a dict.

    Parameters
    ----------
    what : str
        Whose they are, for the error.
    given : mapping
        The settings.
    *needed : str
        Those that must be there.

    Raises
    ------
    TypeError, ValueError
        If it is no mapping, or one is missing.

    Examples
    --------
    >>> settings_of("Dense", {"units": 3}, "n_units")
    Traceback (most recent call last):
    ValueError: the settings of Dense have no 'n_units'
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"the settings of {what} are a dict, and this is {given!r:.60}")
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"the settings of {what} have no {missing[0]!r}")
    return dict(given)


def made_from(kind: type[T], settings: Mapping[str, Any]) -> T:
    """Make an object of a class from its settings.

    Raises
    ------
    ValueError
        If it has no such setting, or one that it needs is missing.

    Examples
    --------
    >>> made_from(complex, {"real": 1.0})
    (1+0j)
    """
    try:
        return kind(**settings)
    except TypeError as error:
        import inspect  # only needed here

        named = [inspect.signature(base).parameters for base in kind.__mro__ if base is not object]
        known = {name for parameters in named for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD}
        if unknown := [name for name in settings if name not in known]:
            raise ValueError(
                f"{kind.__name__} has no setting {unknown[0]!r:.60}; known are {', '.join(sorted(known))}"
            ) from error
        settings_of(kind.__name__, settings, *(name for name, one in named[0].items() if _is_needed(one)))
        raise


def _is_needed(parameter: Any) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_KEYWORD,
        parameter.VAR_POSITIONAL,
    )


class Registry(Mapping[str, type[Any]], Generic[T]):
    """Classes by name, whose objects are made from plain values and written as plain values.

    Parameters
    ----------
    kind : str
        What their instances are, for errors: ``"loss"``.
    known : mapping of str to class
        The classes.
    wanted : str
        What is accepted beside a name, for errors.
    serves : callable, optional
        Whether an object is accepted as it is.
    key : str, default "name"
        The key of the name in a dict of plain values.
    brief : bool, default True
        Whether an object with default arguments is written as its name alone.

    Examples
    --------
    >>> numbers = Registry("number", {"complex": complex}, "a number", lambda x: isinstance(x, complex))
    >>> numbers.made("complex"), numbers.made({"name": "complex", "real": 1.0}), numbers.made(2j)
    (0j, (1+0j), 2j)
    """

    def __init__(
        self,
        kind: str,
        known: Mapping[str, type[Any]],
        wanted: str,
        serves: Callable[[Any], bool] = lambda spec: False,
        *,
        key: str = "name",
        brief: bool = True,
    ) -> None:
        self.kind, self.wanted, self.serves, self.key, self.brief = kind, wanted, serves, key, brief
        self._known, self._names = dict(known), {cls: name for name, cls in reversed(list(known.items()))}

    def __getitem__(self, name: str) -> type[Any]:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def made(self, spec: Any) -> T:
        """Return the object that plain values describe; an object is returned as it is.

        Parameters
        ----------
        spec : str, mapping or object
            A name, what :meth:`written` returned, or the object itself.

        Raises
        ------
        ValueError
            If the name is unknown.
        TypeError
            If it is none of these.
        """
        if isinstance(spec, str):
            spec = {self.key: spec}
        if isinstance(spec, Mapping) and self.key in spec:
            kind = by_name(self.kind, self._known, spec[self.key], f", or {self.wanted}")
            spec = made_from(kind, {name: self._inner(value) for name, value in spec.items() if name != self.key})
        elif isinstance(spec, type) or not self.serves(spec):
            given = f"the class {spec.__name__}: pass {spec.__name__}(...)" if isinstance(spec, type) else repr(spec)
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise TypeError(f"{article} {self.kind} is a name or {self.wanted}, and this is {given}")
        thing: T = spec
        return thing

    def _inner(self, value: Any) -> Any:
        """Return an argument; one that is described by plain values, such as a schedule, is made too."""
        return self.made(value) if isinstance(value, Mapping) and self.key in value else value

    def written(self, thing: Any) -> Any:
        """Return an object as plain values: its name, with its arguments unless they are the defaults.

        An object whose class is not in the registry is returned as it is.
        """
        name = self._names.get(type(thing))
        if name is None:
            return thing
        fields = dataclasses.fields(thing)
        arguments = {field.name: getattr(thing, field.name) for field in fields}
        if self.brief and arguments == {field.name: field.default for field in fields}:
            return name
        return {self.key: name, **{key: self.written(value) for key, value in arguments.items()}}
