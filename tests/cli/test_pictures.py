"""What is drawn and reported of predictions, and that no text of a file gets into a page as anything but text."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pl = pytest.importorskip("polars")
pytest.importorskip("matplotlib")

from dense_xp import cli  # noqa: E402
from dense_xp.cli import page as pages  # noqa: E402
from dense_xp.cli.pictures import prediction_quality  # noqa: E402
from dense_xp.cli.scores import errors, importances, scores  # noqa: E402
from dense_xp.tables import Encoder  # noqa: E402
from dense_xp.training.history import History  # noqa: E402

RNG = np.random.default_rng(0)


def frame(n: int = 400) -> Any:
    strong, weak = RNG.standard_normal((2, n))
    return pl.DataFrame(
        {
            "strong": strong,
            "weak": weak,
            "<script>alert(1)</script>": RNG.choice(["a&b", "<b>"], n),
            "kind": np.where(strong + 0.2 * weak > 0, "yes", "<img src=x>"),
            "cost": 3 * strong + weak,
        }
    )


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize("target", ["kind", "cost"])
@pytest.mark.parametrize("share", ["0.2", "0"])
def test_a_report_is_one_page_that_needs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str, share: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "optional", lambda *_: None)
    frame().write_csv("t.csv")
    options = ["--save", "m", "--epochs", "3", "--hidden", "8", "--validation", share, "--drop", "x"]
    command = ["train", "t.csv", "--target", target, "--report", "r.html", *options[:-2]]
    assert cli.main(command) == 0
    assert "report      r.html" in capsys.readouterr().out
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    found = Tags(text)
    assert "script" not in found.tags
    assert found.tags.count("img") == 3
    for source in found.sources:
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert b"</svg>" in base64.b64decode(data)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert ("held out" if share != "0" else "learned from") in re.findall("Predictions beside the truth: .*<", text)[0]


def test_a_report_needs_the_library_that_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frame().write_csv("t.csv")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["train", "t.csv", "--target", "kind", "--save", "m", "--report", "r.html"]) == 2
    assert 'pictures need matplotlib: run  pip install "dense-xp[cli]"' in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_evaluate_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "optional", lambda *_: None)
    frame().write_csv("t.csv")
    for target in ("kind", "cost"):
        assert cli.main(["train", "t.csv", "--target", target, "--save", "m", "--epochs", "20", "--quiet"]) == 0
        assert cli.main(["evaluate", "m", "t.csv", "--plot", "p.png"]) == 0
        assert "picture     p.png" in capsys.readouterr().out
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "p.png").unlink()
    assert cli.main(["evaluate", "m", "t.csv", "--plot", "t.csv"]) == 2
    assert cli.main(["evaluate", "m", "t.csv", "--plot", "m"]) == 2


def test_evaluate_shows_which_class_is_taken_for_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "optional", lambda *_: None)
    frame().write_csv("t.csv")
    assert cli.main(["train", "t.csv", "--target", "kind", "--drop", "cost", "--save", "m", "--epochs", "2"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "m", "t.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert cli.main(["evaluate", "m", "t.csv", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [line.split()[-2:] for line in lines[-2:]] == [[str(n) for n in row] for row in report["confusion"]]
    assert lines[-3].split()[-1] == "predicted"
    assert 0.9 < report["auc"] <= 1


def encoded() -> tuple[Encoder, Any, Any, Any]:
    table = frame()
    encoder = Encoder.fit(table, "kind", drop=["cost"])
    return encoder, table, encoder.encode(table), encoder.encode_target(table)


def test_the_errors_of_rows_are_those_of_the_formula() -> None:
    encoder, _, _, y = encoded()
    output = RNG.standard_normal((len(y), 2)).astype("float32")
    e = np.exp(output.astype("float64"))
    expected = -np.log((e / e.sum(axis=1, keepdims=True))[np.arange(len(y)), y])
    np.testing.assert_allclose(errors(encoder, output, y), expected, rtol=1e-12)
    found = scores(encoder, output, y)
    assert found["cross_entropy"] == pytest.approx(expected.mean())
    assert found["auc"] == pytest.approx(
        np.mean([(a > b) + (a == b) / 2 for a in (output[:, 1] - output[:, 0])[y == 1] for b in
                 (output[:, 1] - output[:, 0])[y == 0]])
    )  # fmt: skip


def test_one_class_alone_has_no_area() -> None:
    encoder = encoded()[0]
    found = scores(encoder, np.zeros((5, 2), dtype="float32"), np.zeros(5, dtype=np.int64))
    assert "auc" not in found
    assert not any(isinstance(value, float) and math.isnan(value) for value in found.values())


def test_a_column_that_says_all_is_worth_most_and_one_that_is_not_used_nothing() -> None:
    encoder, _, X, y = encoded()

    def predict(X: Any) -> Any:
        return np.stack([-10 * X[:, 0], 10 * X[:, 0]], axis=1)

    growth = importances(encoder, predict, X, y)
    assert growth["strong"] > 1
    assert growth["weak"] == growth["<script>alert(1)</script>"] == 0
    assert importances(encoder, predict, X, y) == growth


def test_many_classes_and_strange_names_are_drawn() -> None:
    names = [f"class ${i} with a long \x1b[31m name" for i in range(30)]
    for k in (3, 30):
        table = pl.DataFrame({"x": RNG.standard_normal(300), "y": [names[i % k] for i in range(300)]})
        encoder = Encoder.fit(table, "y")
        output, y = RNG.standard_normal((300, k)).astype("float32"), encoder.encode_target(table)
        figure = prediction_quality(encoder, output, y)
        figure.canvas.draw()
        assert len(figure.axes) == 2
    text = pages.page("t", [("a", "b")], encoder, History({"loss": [1.0, 0.5]}), table, "rows",
                      (encoder.encode(table), y), lambda X: output[: len(X)])  # fmt: skip
    assert "\x1b" not in text
