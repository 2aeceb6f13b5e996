"""The command line, as a user runs it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import dense_xp
from dense_xp import cli
from dense_xp.backend import Backend, available_backends, get_backend
from dense_xp.evidence import bench, demo


def test_the_demo_learns_the_digits(backend: Backend) -> None:
    """Bars: 97 % of the test images on every backend, from the same weights as NumPy bit for bit."""
    quick = backend.name in ("numpy", "torch", "jax", "cupy")
    result = demo.run(backend, epochs=30 if quick else 2)
    assert result.accuracy >= (0.97 if quick else 0.85)
    assert result.same_start
    assert result.samples_per_second > 0
    # float32 runs of the same steps: rounding errors of 1e-7, which training may magnify
    assert result.difference_from_numpy < 1e-3
    assert np.isfinite(result.difference_from_numpy)


def test_demo_prints_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--backend", "numpy", "--epochs", "3", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^backend +numpy$", out, re.M)
    assert re.search(r"^device +cpu$", out, re.M)
    accuracy = re.search(r"^test accuracy +(0\.\d+) on 360 images$", out, re.M)
    assert accuracy
    assert float(accuracy[1]) > 0.85
    assert re.search(r"^samples per second +[\d,]+$", out, re.M)
    assert re.search(r"^worst difference from NumPy +0 in a probability", out, re.M)


def test_the_same_seed_gives_the_same_network() -> None:
    backend = dense_xp.get_backend("numpy")
    one, two, other = (demo.run(backend, epochs=1, seed=seed) for seed in (3, 3, 4))
    for name, value in one.model.weights.items():
        np.testing.assert_array_equal(value, two.model.weights[name])
    assert np.any(other.model.weights["dense.W"] != one.model.weights["dense.W"])


def test_info_lists_every_backend_and_why_it_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"dense_xp {dense_xp.__version__}" in out
    for name, found in available_backends().items():
        line = next(line for line in out.splitlines() if line.split()[0] == name)
        assert (str(found.version) in line) if found else (f"not available: {found.error}" in line)


def test_info_says_how_to_get_compiled_kernels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, hint in (("numpy", True), ("numba", False)):
        monkeypatch.setattr(cli.library, "host_kernels", lambda name=name: SimpleNamespace(NAME=name))
        assert cli.main(["info"]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("kernels"))
        assert line.startswith(f"kernels on NumPy: {name}")
        assert ('pip install "dense-xp[fast]"' in line) == hint


def test_auto_says_what_it_chose(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--backend", "auto", "--epochs", "1"]) == 0
    assert "auto: " in capsys.readouterr().out


def test_the_environment_variable_names_the_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DENSE_XP_BACKEND", "nmpy")
    assert cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'numpy'" in error
    assert "DENSE_XP_BACKEND" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo", "--backend", "nmpy"], "did you mean 'numpy'"),
        (["demo", "--backend", "numpy:7"], "has no usable device"),
    ],
)
def test_a_backend_that_cannot_be_used_is_one_line_and_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "arguments are required: command (see dense-xp --help)"),
        (
            ["demo", "--epochs", "0"],
            "--epochs: '0' is not a whole number from 1 on (see dense-xp demo --help)",
        ),
        (["demo", "--epochs", "x"], "'x' is not a whole number"),
        (["train"], "required: DATA, --save (see dense-xp train --help)"),
        (["trian"], "invalid choice: 'trian'"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


COMMANDS = ("train", "predict", "evaluate", "export", "summary", "demo", "parity", "bench", "info")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example_and_takes_a_backend_and_a_device(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: dense-xp {command}" in out
    assert f"example: dense-xp {command}" in " ".join(out.split())
    assert "--backend NAME" in out
    assert "--device NAME" in out


def test_every_command_is_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert tuple(re.findall(r"^    (\w+) +\S", capsys.readouterr().out, re.M)) == COMMANDS


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["--backend", "array_api_strict", "--device", "device1"], "array_api_strict:device1"),
        (["--backend", "numpy", "--device", "cpu"], "numpy"),
        (["--backend", "array_api_strict:device1"], "array_api_strict:device1"),
    ],
)
def test_a_device_is_joined_to_the_backend(arguments: list[str], chosen: str) -> None:
    assert cli.main(["info", *arguments]) == 0
    assert dense_xp.get_backend().spec == chosen


def test_a_device_is_joined_to_the_backend_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSE_XP_BACKEND", "array_api_strict")
    assert cli.main(["info", "--device", "device1"]) == 0
    assert dense_xp.get_backend().spec == "array_api_strict:device1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["info", "--device", "cuda:1"],
            "needs the name of a library: --backend torch --device cuda:1",
        ),
        (["info", "--backend", "auto", "--device", "cuda:1"], "needs the name of a library"),
        (["info", "--backend", "array_api_strict:device1", "--device", "device2"], "names its device"),
        (["info", "--backend", "numpy", "--device", "cuda:1"], "no usable device"),
        (["bench", "--device", "cuda:1"], "needs the name of a library"),
        (
            ["bench", "--backend", "numpy,array_api_strict", "--device", "cuda:1"],
            "'array_api_strict:cuda:1' has no usable device",
        ),
    ],
)
def test_devices_that_do_not_fit(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


def test_a_file_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["bench", "--backend", "numpy", "--quick", "--rounds", "1", "--plot", str(tmp_path / "no" / "x.png")]
    assert cli.main(arguments) == 2
    assert re.fullmatch(r"dense-xp: .*x\.png cannot be written: there is no folder '.*no'\n", capsys.readouterr().err)


def test_the_import_does_not_bring_the_command_line() -> None:
    code = "import sys, dense_xp; print({'argparse', 'polars', 'dense_xp.cli', 'dense_xp.tables'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_python_dash_m() -> None:
    command = [sys.executable, "-m", "dense_xp", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"dense_xp {dense_xp.__version__}"


def test_bench_times_backends_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--backend", "numpy,array_api_strict", "--quick", "--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["group"] for row in report["timings"]} == {"layer", "step", "epoch", "predict", "latency", "width"}
    for own in (row for row in report["timings"] if row["backend"] == "numpy"):
        assert own["seconds"] > 0
        assert own["ratio"] == 1.0
    assert all(row["error"] == "" and row["ratio"] > 0 for row in report["timings"])
    assert all((row["p99"] is not None) == (row["group"] == "latency") for row in report["timings"])
    assert all(row["p99"] >= row["seconds"] for row in report["timings"] if row["p99"])
    assert set(report["faster_from_width"]) == {"array_api_strict:cpu"}
    assert report["kernels"] in ("numpy", "numba")


def test_bench_prints_a_table_and_goes_on_after_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(backend: Backend) -> bench.Call:
        if backend.name != "numpy":
            raise MemoryError("no room")
        return lambda: 1.0

    monkeypatch.setattr(bench, "works", lambda quick: [bench.Work("width", "32-32-32, batch 1", 1, make)])
    assert cli.main(["bench", "--backend", "numpy,array_api_strict", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^    numpy .* 1\.00 .*samples/s$", out, re.M)
    assert re.search(r"^    array_api_strict:cpu +failed: MemoryError: no room$", out, re.M)


def test_bench_draws_sizes_by_a_seed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        for sizes, batch in bench.drawn(seed, 5):
            weights = sum(a * b for a, b in itertools.pairwise(sizes))
            assert 2 <= len(sizes) <= 11
            assert min(sizes) >= 1
            assert max(sizes[:-1]) <= 4096
            assert sizes[-1] <= 50_000
            assert 1 <= batch <= 8192
            assert weights <= bench.MOST_WEIGHTS
            assert weights * batch <= bench.MOST_PRODUCTS
    assert bench.drawn(7, 3) == bench.drawn(7, 3) != bench.drawn(8, 3)
    monkeypatch.setattr(bench, "MOST_PRODUCTS", 1 << 18)
    [(sizes, batch)] = bench.drawn(7, 1)
    arguments = ["bench", "--backend", "numpy", "--rounds", "1", "--sizes", "random", "--seed", "7", "--count", "1"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    name = "-".join(map(str, sizes))
    for line in (f"{name}, batch {batch}", f"{batch:,} × {name}, from and to", f"1 × {name}, from and to"):
        assert f"\n  {line}" in out
    assert len(re.findall(r"^    numpy .*samples/s, 99th percentile [\d.]+ .?s$", out, re.M)) == 1


@pytest.mark.parametrize("wrong", [0.98, math.nan])
def test_bench_leaves_out_who_gives_another_answer(wrong: float) -> None:
    answers = {"numpy": [1.0, -2.0], "array_api_strict": [1.0, -2.0 * wrong]}
    work = bench.Work("predict", "two", 2, lambda backend: lambda: backend.asarray(answers[backend.name]))
    right, left_out = bench.compare(work, [get_backend(name) for name in answers], 1)
    assert right.seconds is not None
    assert left_out.seconds is None
    assert "its answer is off by" in left_out.error


def test_bench_finds_where_one_overtakes_the_other() -> None:
    def rows(backend: str, *seconds: float) -> list[bench.Timing]:
        widths = zip((32, 64, 128), seconds, strict=True)
        return [bench.Timing("width", f"{n}-{n}-{n}, batch 128", backend, s, 1.0, 1.0) for n, s in widths]

    timings = rows("a", 2.0, 2.0, 2.0) + rows("b", 1.0, 3.0, 1.0) + rows("c", 1.0, 1.0, 1.0) + rows("d", 1.0, 1.0, 2.5)
    assert bench.crossovers(timings) == {"b": 128, "c": 32, "d": None}
    assert bench.crossovers([]) == {}


def test_bench_knows_what_grows() -> None:
    """Each group has its own, and nothing else grows in it."""
    for group in bench.GROWTH:
        names = [work.name for work in bench.works() if work.group == group]
        steps = [(sizes.split("-"), batch) for sizes, batch in (name.split(", batch ") for name in names)]
        for other, read in bench.GROWTH.items():
            values = {read([int(n) for n in sizes], int(batch)) for sizes, batch in steps}
            together = {"width", "classes"} if group == "width" else {group}
            assert (len(values) == len(names) > 1) == (other in together), (group, other)


def test_bench_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    assert cli.main(["bench", "--backend", "numpy", "--quick", "--rounds", "1", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert cli.main(["bench", "--backend", "numpy", "--plot", "x.png"]) == 2
    assert capsys.readouterr().err.strip() == 'dense-xp: pictures need matplotlib: run  pip install "dense-xp[cli]"'


def test_a_reader_that_has_seen_enough() -> None:
    done = subprocess.run(
        f"{sys.executable} -m dense_xp info | {sys.executable} -c pass",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_ctrl_c_during_the_imports_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, os, signal\n"
        "load = builtins.__import__\n"
        "def ask(name, *rest, **more):\n"
        "    if name == 'argparse':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *rest, **more)\n"
        "builtins.__import__ = ask\n"
    )
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import dense_xp, argparse\n")  # started by -m too
    (tmp_path / "theirs" / "__main__.py").write_text("")
    root = Path(__file__).parents[2]
    for command, traced in (
        (["-m", "dense_xp", "info"], False),
        (["-c", "import dense_xp, argparse"], True),
        (["-m", "theirs", "-m", "dense_xp"], True),
    ):
        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == -signal.SIGINT
        assert ("Traceback" in done.stderr) is traced
