"""The examples in the README and the docs run, and the links in them lead somewhere."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS_A_GPU = re.compile(r'"(cupy|torch:cuda)')
DOCTEST_OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
OPTIONAL = ("torch", "keras", "sklearn", "onnxruntime", "ndonnx", "mpi4py")


# Keras on torch hands tensors to numpy.array, which torch warns of
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(
    page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python blocks of a page are one program, and a session in it returns what it shows.

    Blocks that ask for a GPU are only compiled. From the block on that imports a library which is not here, nothing
    is run, and the test says that it was skipped.
    """
    monkeypatch.chdir(tmp_path)  # where the files that they write may lie
    # without a word Keras asks for TensorFlow
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch" if _is_here("torch") else "numpy"))
    names: dict[str, object] = {"__name__": "example"}
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(python|pycon)\n(.*?)^```", text, re.M | re.S):
        kind, block = found.groups()
        line = text.count("\n", 0, found.start()) + 1
        if missing := [name for name in OPTIONAL if _needs(block, name) and not _is_here(name)]:
            pytest.skip(f"from here on it needs {' and '.join(missing)}")
        if kind == "python":
            program = compile("\n" * line + block, str(page), "exec")
            if not NEEDS_A_GPU.search(block):
                exec(program, names)
        else:
            session = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), line)
            session.globs = names  # not a copy: what it assigns is there further down the page
            runner = doctest.DocTestRunner(optionflags=DOCTEST_OPTIONS)
            failed, tried = runner.run(session, clear_globs=False)
            assert tried, f"{page.name}, line {line}: a session without a prompt"
            assert not failed, capsys.readouterr().out


def _needs(block: str, library: str) -> bool:
    """Whether a block imports it; to export to ONNX is to import ndonnx, and Ranks import mpi4py."""
    imported = re.search(rf"^(import|from) {library}\b", block, re.M)
    asks = {"ndonnx": "export_onnx", "mpi4py": "Ranks("}.get(library)
    return bool(imported) or (asks is not None and asks in block)


def _is_here(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_of_the_docs_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name
