"""The command line, ``dense-xp`` or ``python -m dense_xp``: the parser, and errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import dense_xp
from dense_xp.backend import BackendError, set_backend
from dense_xp.cli import library, models, train
from dense_xp.cli.arguments import Parser, backend_options, on_device
from dense_xp.starting import catches_interrupts
from dense_xp.support.texts import plain


def _parser() -> Parser:
    parser = Parser(prog="dense-xp", description=dense_xp.__doc__)
    parser.add_argument("--version", action="version", version=f"dense_xp {dense_xp.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for group in (train, models, library):
        group.add(commands, backend_options())
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        0; 2 if something that was given cannot be used, with the reason in one line on standard error; 130 after
        Ctrl-C; 1 if `parity` finds a broken bound.
    """
    try:
        catches_interrupts()
        arguments = _parser().parse_args(argv)
        if "backend" in arguments and (chosen := on_device(arguments.backend, arguments.device)) is not None:
            set_backend(chosen)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BackendError as error:
        return _refused(*map(str, (error, *getattr(error, "__notes__", ()))))
    except BrokenPipeError:  # the reader, such as head, has closed the pipe: leave nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, ValueError, ArithmeticError) as error:  # their messages name the remedy
        return _refused(" ".join(str(error).splitlines()))
    except MemoryError as error:
        return _refused(str(error) or "there is not enough memory")
    except OSError as error:
        return _refused(": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error))
    except KeyboardInterrupt as error:
        _refused(str(error) or "interrupted")
        return 130
    return status


def _refused(*lines: str) -> int:
    print(f"dense-xp: {plain(lines[0])}", *map(plain, lines[1:]), sep="\n", file=sys.stderr)
    return 2
