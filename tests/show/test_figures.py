"""Figures as files: the report's pictures with their legends, in formats that open."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

import thalweg as tw
from tests.show.sample import analysis, trial
from thalweg.show import figures
from thalweg.show.figures import SHAPES, figure, save_figures
from thalweg.show.messages import Words
from thalweg.show.sections import sections

pytestmark = pytest.mark.xdist_group("figures")  # its module's fixtures are made once


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "run"
    (folder / "results").mkdir(parents=True)
    manifest = {"format": 1, "parameters": [], "optimizer": {}, "steps": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "results/analysis.json").write_text(json.dumps(analysis()))
    (folder / "results/trial.json").write_text(json.dumps(trial()))
    return folder


def test_every_figure_is_written_with_its_headings_and_its_legend(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "load_analysis", lambda _: {**analysis(), "trial": trial()})
    for language in ("en", "ja"):
        paths = save_figures(run, folder=run / language, language=language)
        there = [s for s in sections({**analysis(), "trial": trial()}, Words(language)) if s.pictures]
        assert [path.name for path in paths] == [f"{section.name}.svg" for section in there]
        for path, section in zip(paths, there, strict=True):
            root = ElementTree.parse(path).getroot()
            text = "".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("text"))
            for words in (*(p.heading for p in section.pictures), *(str(key.text) for key in section.legend)):
                assert re.sub(r"\s", "", words) in re.sub(r"\s", "", text), (path, words)
            identifiers = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
            assert len(identifiers) == len(set(identifiers))
            # two panels in a row at the most
            assert float(root.attrib["width"].removesuffix("pt")) == 360 * min(2, len(section.pictures))


@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_other_formats_open(run: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(figures, "load_analysis", lambda _: analysis())
    (path,) = save_figures(run, ["density"], kind=kind)
    assert path == run / "figures" / f"density.{kind}"
    if kind == "png":
        with Image.open(path) as image:
            assert image.size[0] == 2000
    else:
        assert path.read_bytes().startswith(b"%PDF")
    before = path.read_bytes()
    save_figures(run, ["density"], kind=kind)
    assert path.read_bytes() == before


def test_every_mark_of_a_legend_can_be_drawn() -> None:
    for section in sections({**analysis(), "trial": trial()}, Words("en")):
        assert {key.mark for key in section.legend} <= set(SHAPES)


def test_a_figure_can_be_had_from_what_analyse_returned() -> None:
    drawn = figure(analysis(), "eigenvalues")
    assert len(drawn.axes) == 3
    words = Words("en")
    headings = [text.get_text() for text in drawn.texts]
    assert headings[0] == words.plain("eigenvalues.end", step=analysis()["stages"][-1]["step"])
    assert headings[1:] == [words.plain("eigenvalues.through"), words.plain("tracking.lines")]
    assert tw.figure is figure


def test_wrong_names_formats_and_languages_are_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "load_analysis", lambda _: analysis())
    with pytest.raises(tw.InputError, match=r"no figure 'densty'.*density"):
        save_figures(run, ["densty"])
    with pytest.raises(tw.InputError, match="no format 'jpg'"):
        save_figures(run, kind="jpg")
    with pytest.raises(tw.InputError, match="no language 'fr'"):
        save_figures(run, language="fr")
    with pytest.raises(tw.InputError, match="no figure 'trial'"):
        figure(analysis(), "trial")
    monkeypatch.setattr(figures, "JAPANESE", ("No Such Font",))
    with pytest.raises(tw.InputError, match="no font with Japanese"):
        save_figures(run, ["density"], kind="png", language="ja")
    assert save_figures(run, ["density"], language="ja")  # text stays text
    monkeypatch.setattr(figures, "load_analysis", lambda _: {"format": 1})
    with pytest.raises(tw.InputError, match="has no figure; run: thalweg analyse"):
        save_figures(run)


def test_hostile_names_do_no_harm() -> None:
    data = copy.deepcopy(analysis())
    for row in data["layers"]:
        row["layer"] = "$\\frac{1}{2}$ <b>" + "x" * 300
    drawn = figure(data, "layers")
    drawn.canvas.draw()
