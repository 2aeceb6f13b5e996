"""What is shipped, and what the tests ran with: the lock fits the bounds, and nobody asks the network."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

WATCHED = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise AssertionError(f"{event} {arguments}")

sys.addaudithook(refuse)
import importlib, pkgutil, socket
import dense_xp
for module in pkgutil.walk_packages(dense_xp.__path__, "dense_xp."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError:  # of an optional library
            pass
from dense_xp import Dense, Sequential
from dense_xp.datasets import load_digits
X, y = load_digits()
Sequential([Dense(10)], rng=0, backend="numpy").fit(X, y, 1)
try:
    socket.getaddrinfo("localhost", 80)
except AssertionError:
    print("watched")
"""


def test_neither_import_nor_training_asks_the_network() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "watched"


def test_no_test_can_reach_another_machine() -> None:
    with socket.socket() as own, pytest.raises(RuntimeError, match="no test may reach another machine"):
        own.connect(("192.0.2.1", 80))  # an address for documentation alone: RFC 5737
    with pytest.raises(RuntimeError, match="no test may reach another machine"):
        socket.create_connection(("example.invalid", 80))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def locked() -> dict[str, str]:
    """Return the versions in the lock, by name."""
    lines = (ROOT / "tests" / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_lock_names_a_version_for_all_that_the_tests_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, versions = project["optional-dependencies"], locked()
    wanted = [
        *project["dependencies"],
        *(spec for name in ("test", "docs", "dev", "fast", "sklearn") for spec in extras[name]),
    ]
    for requirement in map(Requirement, wanted):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in the lock: make it again, see CONTRIBUTING.md"
        assert requirement.specifier.contains(version), f"{requirement}, and the lock has {version}"


COMES_AS = {"cuda": "cuda-pathfinder", "cupy": "cupy-cuda13x", "cupyx": "cupy-cuda13x", "sklearn": "scikit-learn"}
"""The packages that bring a module of another name."""

WITH_NUMBA = {"llvmlite"}
"""numba names the one version of it that it works with."""


def test_every_library_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    specs = [*project["dependencies"], *(spec for extra in project["optional-dependencies"].values() for spec in extra)]
    declared = {canonicalize_name(Requirement(spec).name) for spec in specs}
    found: set[str] = set()
    for path in (ROOT / "dense_xp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    found -= {*sys.stdlib_module_names, *WITH_NUMBA, "dense_xp"}
    assert found > {"numpy", "cuda", "cupy", "torch"}
    assert {name for name in found if canonicalize_name(COMES_AS.get(name, name)) not in declared} == set()


def test_the_lock_is_one_of_the_index_alone() -> None:
    """No path of a machine, and no address, by which something else would come."""
    assert all(re.fullmatch(r"[0-9A-Za-z.!+]+", version) for version in locked().values())
