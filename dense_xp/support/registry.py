"""Things that are asked for by name: losses, optimizers, penalties, constraints, initializers, activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from dense_xp.support.texts import nearest

T = TypeVar("T")


def by_name(kind: str, known: Mapping[str, T], name: str, otherwise: str = "") -> T:
    """Return what has this name.

    Parameters
    ----------
    kind : str
        What it is, for the error: ``"loss"``.
    known : mapping of str to object
        Everything by name.
    name : str
        The name that was asked for.
    otherwise : str
        What else would serve, for the error.

    Raises
    ------
    ValueError
        If nothing has this name; the message has the nearest one and all known ones.

    Examples
    --------
    >>> by_name("number", {"one": 1, "two": 2}, "two")
    2
    """
    if name in known:
        return known[name]
    near = nearest(str(name), known, 0.4)
    raise ValueError(
        f"unknown {kind} {name!r}"
        + (f"; did you mean {near!r}?" if near else ".")
        + f" Known: {', '.join(known)}{otherwise}"
    )


class Registry(Mapping[str, type[Any]], Generic[T]):
    """Classes by name: things made from plain values, and written as plain values.

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
        Where the name stands among plain values.
    brief : bool, default True
        Whether a thing with default arguments is written as its name alone.

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
        """Return what plain values stand for; a thing itself as it is.

        Parameters
        ----------
        spec : str, mapping or object
            A name, what :meth:`written` returned, or a thing.

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
            spec = kind(**{name: self._inner(value) for name, value in spec.items() if name != self.key})
        elif isinstance(spec, type) or not self.serves(spec):
            given = f"the class {spec.__name__}: pass {spec.__name__}(...)" if isinstance(spec, type) else repr(spec)
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise TypeError(f"{article} {self.kind} is a name or {self.wanted}, and this is {given}")
        thing: T = spec
        return thing

    def _inner(self, value: Any) -> Any:
        """Return an argument, which may be such a thing itself, as the schedule of an optimizer is."""
        return self.made(value) if isinstance(value, Mapping) and self.key in value else value

    def written(self, thing: Any) -> Any:
        """Return a thing as plain values: its name, with its arguments unless they are the defaults.

        What is not of a class in the registry has no such form, and is returned as it is.
        """
        name = self._names.get(type(thing))
        if name is None:
            return thing
        fields = dataclasses.fields(thing)
        arguments = {field.name: getattr(thing, field.name) for field in fields}
        if self.brief and arguments == {field.name: field.default for field in fields}:
            return name
        return {self.key: name, **{key: self.written(value) for key, value in arguments.items()}}
