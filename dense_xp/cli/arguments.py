"""What the commands share: options, their types, and errors in one line."""

from __future__ import annotations

import argparse
import csv
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from dense_xp.backend import ENVIRONMENT_VARIABLE

DATA = "CSV (.csv, .tsv, .txt, also .gz), Parquet, or NPZ with the arrays X (rows, columns) and y (rows)"

T = TypeVar("T", int, float)


_TEXTS = ("--missing", "--value", "--target", "--drop", "--category", "--number", "--keep")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; the value of an option for texts may begin with a dash, or be ``--``."""
        rest, joined = list(sys.argv[1:] if args is None else args), []
        while rest:
            option, equals, value = rest.pop(0).partition("=")
            if option in _TEXTS and not equals and rest and not re.match("--[a-z]", rest[0]):
                equals, value = "=", rest.pop(0)
            # argparse drops the value "--": mark values with NUL, which no argument of a process has
            joined.append(option + equals + ("\0" if option in _TEXTS and equals else "") + value)
        return super().parse_args(joined, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], *parents: Parser, example: str, **about: Any
) -> Parser:
    """Add a command that calls `run`, with an example at the end of its help text."""
    parser: Parser = commands.add_parser(name, parents=parents, epilog=f"example: dense-xp {example}", **about)
    parser.set_defaults(run=run)
    return parser


def backend_options() -> Parser:
    """Return the parent parser of the commands that compute on one backend."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="numpy, cupy, cupy:1, torch, torch:cuda, jax, dpnp, … or auto, which takes a GPU where there is one "
        f"(default: the environment variable {ENVIRONMENT_VARIABLE}, else numpy)",
    )
    device_option(parser)
    return parser


def device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device", metavar="NAME", help="device of that backend: --backend torch --device cuda:1 is torch:cuda:1"
    )


def on_device(backend: str | None, device: str | None) -> str | None:
    """Return the name of a backend and the name of a device as one.

    Parameters
    ----------
    backend : str, optional
        By default what the environment variable says.
    device : str, optional
        Without one, the backend stays as it is.

    Raises
    ------
    ValueError
        If there is a device and no backend, or the backend names a device already.

    Examples
    --------
    >>> on_device("torch", "cuda:1")
    'torch:cuda:1'
    """
    if device is None:
        return backend
    backend = backend or os.environ.get(ENVIRONMENT_VARIABLE)
    if not backend or backend == "auto":
        raise ValueError(f"--device {device} needs the name of a library: --backend torch --device {device}")
    if ":" in backend:
        raise ValueError(f"the backend {backend!r} names its device, and --device {device} another one: leave one out")
    return f"{backend}:{device}"


def file_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for reading a table: ``--encoding`` and ``--unlimited``."""
    parser.add_argument("--encoding", metavar="NAME", default="utf-8", help="of a CSV file, such as latin-1 or cp1252")
    parser.add_argument(
        "--unlimited",
        action="store_true",
        help="read a file also if it takes far more memory than its size lets one expect",
    )


# ------------------------------------------------------------------------------------- types


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    return _number(text, int, 1, math.inf, "a whole number from 1 on")


def not_negative(text: str) -> int:
    """Return a whole number from 0 on."""
    return _number(text, int, 0, math.inf, "a whole number from 0 on")


def share(text: str) -> float:
    """Return a number from 0 on that is below 1."""
    return _number(text, float, 0, math.nextafter(1, 0), "a number from 0 on that is below 1")


def rate(text: str) -> float:
    """Return a finite number from 0 on."""
    return _number(text, float, 0, math.nextafter(math.inf, 0), "a number from 0 on")


def _number(text: str, kind: type[T], low: float, high: float, what: str) -> T:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def widths(text: str) -> list[int]:
    """Return whole numbers with commas between them; ``none`` is an empty list.

    Examples
    --------
    >>> widths("128,64"), widths("none")
    ([128, 64], [])
    """
    return [] if text == "none" else [positive(part.strip()) for part in text.split(",")]


def as_given(given: str) -> str:
    """Return a text as it was given."""
    return given.removeprefix("\0")


def names(text: str) -> list[str]:
    """Return names with commas between them; one that has a comma itself is put in double quotes.

    Examples
    --------
    >>> names('id,"Name, first"')
    ['id', 'Name, first']
    """
    return next(csv.reader([text.removeprefix("\0")], skipinitialspace=True), [])
