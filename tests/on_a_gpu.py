"""Everything that only a CUDA device can show, in order of importance: ``python -m tests.on_a_gpu``.

Each part runs in a process of its own with a limit of its own, so that what hangs or crashes costs that part alone;
all together they take at most eight minutes. What they say is printed as Markdown, for docs/performance.md and
docs/parity.md. It needs CuPy and pytest; torch and JAX with CUDA are used where they are installed, and
``compute-sanitizer`` where it is on the path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

MASKS = """
import numpy as np
from dense_xp.kernels.cupy_random import uniform_at_least
from dense_xp.support.skipping import SkippingGenerator

for size in (1, 255, 256, 257, 1 << 18, (1 << 18) + 1, 1_000_003):
    ours, theirs = np.random.default_rng(size), np.random.default_rng(size)
    for _ in range(2):  # from where the last one ended
        mask = uniform_at_least(*SkippingGenerator(ours.bit_generator).at_least(0.3, (size,)))
        if not (mask.get() == (theirs.uniform(size=size) >= 0.3)).all():
            raise SystemExit(f"{size} numbers of PCG64 drawn on the device are not those of the host")
print("masks drawn on the device: those of the host, bit for bit")
"""
"""Masks of dropout are drawn on the device unasked, so this is looked at first."""

SMOKE = (
    MASKS
    + """
import cupy
import dense_xp
from dense_xp.kernels.cupy import blas, blas_lt

backend = dense_xp.get_backend("cupy")
print(hash(backend) is not None, backend.dtype("float32"), "TF32" if backend.tf32 else "full precision")
print("products that can be recorded:", blas()[1] or "yes")
print("products with epilogues:", "found" if blas_lt().library() else "none")
X = np.random.default_rng(0).normal(size=(4096, 64)).astype("f4")
y = np.arange(4096) % 3
for activation in ("relu", "tanh", "gelu"):
    for weights in (None, (1.0, 2.0, 3.0)):
        loss = dense_xp.SoftmaxCrossEntropy(class_weight=weights)
        model = dense_xp.Sequential(
            [dense_xp.Dense(64, activation=activation), dense_xp.Dense(3)], backend="cupy", rng=0
        )
        history = model.fit(X, y, 3, 128, loss=loss, optimizer="adam", verbose=False)
        print(activation, weights, history["loss"], "recorded" if not history.unrecorded else history.unrecorded)
        answer = model.predictor()
        given = backend.asarray(X)
        answers = [answer(given) for _ in range(4)]
        same = all(bool((a == answers[0]).all()) for a in answers)
        print("predictions are the same call by call and recorded:", same)
for name in ("float16", "float64"):
    layers = [dense_xp.Dense(64, activation="relu"), dense_xp.Dense(3)]
    model = dense_xp.Sequential(layers, dtype=name, backend="cupy", rng=0)
    history = model.fit(X, y, 3, 128, optimizer="adam", verbose=False)
    print(name, history["loss"], "recorded" if not history.unrecorded else history.unrecorded)
"""
)

MEMORY = """
import numpy as np
import cupy
import dense_xp

X = np.random.default_rng(0).normal(size=(512, 32)).astype("f4")
y = np.arange(512) % 3
free = []
for turn in range(1000):
    model = dense_xp.Sequential([dense_xp.Dense(32, activation="relu"), dense_xp.Dense(3)], backend="cupy", rng=0)
    model.fit(X, y, 1, 64, optimizer="adam", verbose=False)
    if turn in (99, 999):
        del model
        cupy.get_default_memory_pool().free_all_blocks()
        free.append(cupy.cuda.runtime.memGetInfo()[0])
print("device memory taken between the 100th and the 1000th fit:", (free[0] - free[1]) >> 20, "MiB")
"""


ON_THE_DEVICE = "(cupy or cuda) and not on-the-host and not stand-in"
"""Which tests of the kernels: those of a real device, and none of what plays one."""


def tests(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *arguments]


def parts() -> list[tuple[str, list[str], int]]:
    """Return what is run: a title, the command, and its limit in seconds."""
    python = [sys.executable]
    found = [
        ("Smoke", [*python, "-c", SMOKE], 60),
        ("Kernels, graphs, products, feeding", tests("tests/kernels", "tests/training/test_feeding.py",
            "tests/training/test_predictor.py", "-k", ON_THE_DEVICE), 100),
        ("The rules of the stand-in", tests("tests/kernels/test_stand_in_claims.py",
            "tests/backend/test_libraries.py", "-k", "(cupy or real) and not on-the-host and not stand-in"), 20),
        ("Benchmark", [*python, "-m", "tests.benchmarks.cuda"], 120),
        ("Memory over 1,000 fits", [*python, "-c", MEMORY], 40),
        ("Everything else", tests("tests/training/test_fused.py", "tests/layers", "tests/learning", "tests/evidence",
            "-k", f"({ON_THE_DEVICE}) or gpu"), 50),
        ("Parity", [*python, "-m", "dense_xp", "parity", "--backend", "cupy"], 30),
    ]  # fmt: skip
    if sanitizer := shutil.which("compute-sanitizer"):
        chosen = f"{ON_THE_DEVICE} and float32 and (entropy or norm or squared)"
        found.append(
            ("compute-sanitizer", [sanitizer, "--tool", "memcheck", *tests("tests/kernels", "-k", chosen)], 60)
        )
    return found


def report(chosen: Sequence[tuple[str, list[str], int]]) -> int:
    """Run the parts, print what they say, and return how many failed."""
    environment = {**os.environ, "DENSE_XP_TEST_REQUIRES": "cupy", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    failed = 0
    print("# dense_xp on a CUDA device\n")
    for title, command, limit in chosen:
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit,
                check=False,
            )  # fmt: skip
            text, end = done.stdout, f"exit status {done.returncode}"
            failed += done.returncode != 0
        except subprocess.TimeoutExpired as error:
            text = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
            end, failed = f"stopped after {limit} s", failed + 1
        lines = text.strip().splitlines()[-40:]
        print(
            f"## {title}\n\n{end}, {time.perf_counter() - started:.0f} s\n\n```\n" + "\n".join(lines) + "\n```\n",
            flush=True,
        )
    return failed


def main() -> None:
    """Run everything, or say that there is no device."""
    from dense_xp.backend import BackendError, get_backend

    try:
        get_backend("cupy")
    except BackendError as error:
        raise SystemExit(f"nothing to run: {error}") from None
    raise SystemExit(report(parts()))


if __name__ == "__main__":
    main()
