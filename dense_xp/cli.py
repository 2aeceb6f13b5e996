"""The command line: ``python -m dense_xp demo`` and ``python -m dense_xp info``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import dense_xp
from dense_xp import demo
from dense_xp.backend import BackendError, get_backend, set_backend, show_config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dense_xp", description=dense_xp.__doc__)
    parser.add_argument("--version", action="version", version=f"dense_xp {dense_xp.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    backend = argparse.ArgumentParser(add_help=False)
    backend.add_argument(
        "--backend",
        metavar="NAME",
        help="numpy, cupy, cupy:1, torch, torch:cuda, jax, dpnp, … or auto, which takes a GPU where there is one "
        "(default: the environment variable DENSE_XP_BACKEND, else numpy)",
    )

    train = commands.add_parser("demo", parents=[backend], help="train a network on handwritten digits")
    train.add_argument("--epochs", type=_positive, default=30, help="how often to go through the data (default: 30)")
    train.add_argument("--seed", type=int, default=0, help="seed of everything that is random (default: 0)")
    train.set_defaults(run=_demo)

    commands.add_parser("info", parents=[backend], help="show what is available, and why anything is not").set_defaults(
        run=_info
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def _demo(arguments: argparse.Namespace) -> int:
    backend = get_backend()
    if backend.reason:
        print(f"auto: {backend.reason}")
    print(f"training on handwritten digits, {arguments.epochs} epochs …", flush=True)
    result = demo.run(backend, epochs=arguments.epochs, seed=arguments.seed)
    rows = {
        "backend": backend.name,
        "device": str(backend.device),
        "test accuracy": f"{result.accuracy:.4f} on {demo.N_TEST} images",
        "samples per second": f"{result.samples_per_second:,.0f}",
        "worst difference from NumPy": f"{result.difference_from_numpy:.2g} in a probability"
        + ("" if backend.name != "numpy" else " (this is the NumPy run)"),
        "same initial weights": "bit for bit" if result.same_start else "NO",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    print(f"dense_xp {dense_xp.__version__}, Python {sys.version.split()[0]}")
    show_config()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        0, or 2 if the backend cannot be used; the reason is on standard error.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.backend is not None:
            set_backend(arguments.backend)
        status: int = arguments.run(arguments)
    except BackendError as error:
        print(f"dense_xp: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status
