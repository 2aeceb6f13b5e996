"""Ctrl-C during the imports of the command line ends it without a traceback.

The package imports this module first. When it is not started as a command, nothing changes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def _is_command() -> bool:
    """Whether Python was started as ``python -m dense_xp``, or as the script ``dense-xp``."""
    name = os.path.basename(str((getattr(sys, "argv", None) or [""])[0]))
    if name == "-m":  # as Python has it while it imports the package of the module to run
        given = sys.orig_argv
        return given[given.index("-m") + 1 :][:1] == ["dense_xp"]
    return name.removesuffix(".exe") == "dense-xp"


def catches_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, as it does without this module."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process at once
