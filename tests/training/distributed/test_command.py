"""The command line on several processes: rank 0 speaks and writes, and the model is that of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dense_xp import cli, load
from tests.training.distributed import launching


def table(path: Path) -> Path:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    lines = [f"{a},{b},{c},{'yes' if a + b > c else 'no'}" for a, b, c in X.tolist()]
    path.write_text("\n".join(["a,b,c,answer", *lines, ""]))
    return path


def test_train_on_two_processes(tmp_path: Path) -> None:
    data = str(table(tmp_path / "data.csv"))
    given = ["train", data, "--target", "answer", "--epochs", "3", "--hidden", "8", "--log", str(tmp_path / "log.csv")]
    done = launching.run(
        2, "-m", "dense_xp", *given, "--save", str(tmp_path / "two.safetensors"), "--distributed", "mpi"
    )
    assert done.status == 0, done.said
    assert done.said.count(str(tmp_path / "two.safetensors")) == 1, done.said
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    assert cli.main([*given, "--save", str(tmp_path / "one.safetensors"), "--quiet"]) == 0
    two, one = load(tmp_path / "two.safetensors").weights, load(tmp_path / "one.safetensors").weights
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=0, atol=1e-5)


def test_what_is_wrong_is_said_and_ends_all(tmp_path: Path) -> None:
    given = ["--target", "answer", "--save", str(tmp_path / "two.safetensors"), "--distributed", "mpi"]
    done = launching.run(2, "-m", "dense_xp", "train", str(tmp_path / "none.csv"), *given)
    assert done.status != 0
    assert "of 2 ended the training: FileNotFoundError" in done.said
    assert not (tmp_path / "two.safetensors").exists()
