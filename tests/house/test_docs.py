"""The reference is complete, and the docstrings say what the signatures say."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import dense_xp

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")}
REFERENCE = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
MODULES = [name for line in re.findall(r"^```\{public\} (.*)$", REFERENCE, re.M) for name in line.split()]


def module_of(name: str) -> str:
    return str(getattr(dense_xp, name).__module__).removeprefix("dense_xp.")


def test_every_public_name_is_in_the_reference() -> None:
    assert len(set(MODULES)) == len(MODULES)
    missing = {module_of(name) for name in dense_xp.__all__} - set(MODULES)
    assert not missing, f"add these modules to a page in docs/reference: {missing}"


def test_what_the_pages_import_from_is_in_the_reference() -> None:
    used = {name for page in PAGES.values() for name in re.findall(r"from dense_xp\.([\w.]+) import", page)}
    missing = {name for name in used - set(MODULES) if not any(module.startswith(f"{name}.") for module in MODULES)}
    assert not missing, f"add these modules to a page in docs/reference: {missing}"


# ------------------------------------------------------------------------------------- docstrings

# what numpydoc finds and this project does otherwise
NOT_WANTED = {
    "ES01",  # a summary may say all that there is to say
    "SA01",  # links are in the text, where they are of use
    "PR03",  # a subclass's own parameters come first, those of its base are referred to after them
    "PR04",  # as are their types
    "RT01",  # a summary that begins with Return may say all about it; the next test looks at the others
    "EX01",  # so it does for classes and functions; a method is in the example of its class
}


def documented() -> dict[str, Any]:
    """Everything with a docstring of its own in the reference: names, and the methods that their class declares."""
    found: dict[str, Any] = {}
    for name in dense_xp.__all__:
        value = getattr(dense_xp, name)
        found[name] = value
        if inspect.isclass(value):
            bases = [base for base in (*value.__mro__[1:], dense_xp.Callback) if base not in (object, value)]
            for key, method in vars(value).items():
                inherited = any(key in vars(base) for base in bases)  # says "see Layer.forward"
                if key[0] != "_" and not inherited and (callable(method) or isinstance(method, property | classmethod)):
                    found[f"{name}.{key}"] = method
    return found


DOCUMENTED = documented()


def takes_parameters(value: Any) -> bool:
    """Whether a class is called by users, with parameters of its own.

    One without its own ``__init__`` has those of its base; one that documents attributes and no parameters is made by
    the package alone, and a protocol by nobody.
    """
    doc = inspect.getdoc(value) or ""
    made_by_us = "Attributes\n---" in doc and "Parameters\n---" not in doc
    return "__init__" in vars(value) and not made_by_us and not getattr(value, "_is_protocol", False)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_fit_their_signatures(name: str) -> None:
    """numpydoc's own checks: sections and their order, every parameter and no other, whole sentences."""
    validate = pytest.importorskip("numpydoc.validate", reason="numpydoc is in the extra docs").validate
    errors = [(code, message) for code, message in validate(f"dense_xp.{name}")["errors"] if code not in NOT_WANTED]
    if inspect.isclass(DOCUMENTED[name]) and not takes_parameters(DOCUMENTED[name]):
        errors = [(code, message) for code, message in errors if code != "PR01"]
    assert not errors


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if "." not in name])
def test_examples_are_given(name: str) -> None:
    value = DOCUMENTED[name]
    doc = inspect.getdoc(value) or ""
    if inspect.isclass(value) and (doc.startswith("Base class") or not takes_parameters(value)):
        return
    assert ">>> " in doc or (inspect.isclass(value) and issubclass(value, Exception))


@pytest.mark.parametrize("name", [name for name, value in DOCUMENTED.items() if inspect.isfunction(value)])
def test_results_are_described(name: str) -> None:
    function = inspect.unwrap(DOCUMENTED[name])
    doc = inspect.getdoc(function) or ""
    if inspect.signature(function).return_annotation not in ("None", inspect.Signature.empty):
        assert re.search(r"^(Returns|Yields)\n---", doc, re.M) or doc.startswith(("Return ", "Whether "))


# ------------------------------------------------------------------------------------- what Sphinx is taught


@pytest.fixture
def extension(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("sphinx", reason="Sphinx is in the extra docs")
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("extension", ["reference"], indirect=True)
def test_the_reference_writes_itself(extension: Any) -> None:
    """The directive's own reading of the modules has every public name, each once."""
    listed = [extension.public_names(importlib.import_module(f"dense_xp.{module}")) for module in MODULES]
    names = [name for home, names in listed for name in names if home == "dense_xp"]
    assert sorted(names) == sorted(dense_xp.__all__)


@pytest.mark.parametrize("extension", ["mathml"], indirect=True)
@pytest.mark.parametrize(
    ("tex", "mathml"),
    [
        (r"\tfrac12 x", "<mn>1</mn><mn>2</mn></mfrac>"),
        (r"\frac{1}{12}", "<mn>1</mn><mn>12</mn></mfrac>"),
        (r"a \log b", '<mi>a</mi><mspacewidth="0.1667em"></mspace><mi>log</mi>'),
        ("∂ℓ ≤ α·‖x‖", "<mi>∂</mi><mi>ℓ</mi><mo>≤</mo><mi>α</mi><mo>⋅</mo>"),
    ],
)
def test_formulas_are_read_as_tex_reads_them(extension: Any, tex: str, mathml: str) -> None:
    from docutils import nodes

    found = re.sub(r"\s", "", extension._mathml(nodes.math("", tex), block=False))
    assert mathml in found


@pytest.mark.parametrize("extension", ["index"], indirect=True)
def test_the_list_in_the_index_is_the_table_of_contents(extension: Any) -> None:
    source = ["# Title\n\nText [elsewhere](other.md).\n\n## Guide\n\n- [One](one.md): first\n- [Two](a/two.md)\n"]
    extension._add_toctrees(None, "index", source)
    assert source[0].endswith("```{toctree}\n:hidden:\n:caption: Guide\n\none\na/two\n```\n")
    assert source[0].count("toctree") == 1
