"""The classic faults, each planted in a copy of the package: the suite must notice every one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FAULTS = {
    "the input gradient goes through the updated W": (
        "layers/layer.py",
        "        grad_X, grads = self.backward(params, cache, accum_grad)\n"
        "        if self.trainable and grads:\n            self._apply(self.with_penalty(params, grads))\n",
        "        grads = self.backward(params, cache, accum_grad)[1]\n"
        "        if self.trainable and grads:\n            self._apply(self.with_penalty(params, grads))\n"
        "        grad_X = self.backward(self.params, cache, accum_grad)[0]\n",
    ),
    "a transpose is missing": ("layers/dense.py", 'product(grad_Z, params["W"].T)', 'product(grad_Z, params["W"])'),
    "a mean where a sum belongs": (
        "layers/dense.py",
        "total(grad_Z, 0, keepdims=True)",
        "total(grad_Z, 0, keepdims=True) / grad_Z.shape[0]",
    ),
    "w0 has the shape (n,)": (
        "layers/dense.py",
        '"w0": (1, self.n_units)}',
        '"w0": (self.n_units,)}',
    ),
    "W and w0 share one optimizer state": (
        "layers/placed.py",
        "return {key: optimizer.init(value) for key, value in params.items() if key not in self.buffers}",
        "state = optimizer.init(next(iter(params.values()), np.zeros(1)))\n"
        "        return {key: state for key in params if key not in self.buffers}",
    ),
    "the dtype drifts to float64": (
        "layers/dense.py",
        "    Z = matmul(rows_of(X), W)\n",
        "    Z = matmul(rows_of(X), W)\n    Z = array_namespace(Z).astype(Z, array_namespace(Z).float64)\n",
    ),
    "the bias is added twice": ("layers/dense.py", 'Z += params["w0"]  #', 'Z += params["w0"] + params["w0"]  #'),
    "frozen layers learn": ("layers/layer.py", "if self.trainable and grads:", "if grads:"),
    "dropout does not scale": ("layers/dropout.py", "X * (1.0 / (1.0 - self.rate))", "X"),
    "the softmax gradient is diagonal": (
        "layers/activations.py",
        "cache * (grad_Y - xp.sum(cache * grad_Y, axis=-1, keepdims=True)), {}",
        "cache * (1 - cache) * grad_Y, {}",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_place(fault: str) -> None:
    name, right, _ = FAULTS[fault]
    source = (ROOT / "dense_xp" / name).read_text(encoding="utf-8")
    assert source.count(right) == 1, f"the place for the fault in {name} has changed"


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_the_suite_red(fault: str, tmp_path: Path) -> None:
    name, right, wrong = FAULTS[fault]
    for part in ("dense_xp", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    source = (tmp_path / "dense_xp" / name).read_text(encoding="utf-8")
    (tmp_path / "dense_xp" / name).write_text(source.replace(right, wrong), encoding="utf-8")
    tests = [
        "tests/layers/test_dense.py",
        "tests/layers/test_dropout.py",
        "tests/layers/test_activations.py",
        "tests/training/test_sequential.py",
    ]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "FAILED" in done.stdout
