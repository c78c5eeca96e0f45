import base64
import copy
import hashlib
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.show.sample import LAYERS, analysis, trial
from thalweg.decision import decision
from thalweg.errors import InputError, RunError
from thalweg.show.messages import CATALOGUES, Words
from thalweg.show.numbers import count, number, percent, seconds
from thalweg.show.report import render, report
from thalweg.show.terms import TERMS
from thalweg.show.trial_text import verdict_line
from thalweg.show.valley_plots import levels

VOID = {"meta", "link", "br", "hr", "img", "input"}
SECTIONS = (
    "path",
    "valley", "explained", "drift", "eigenvalues", "density", "outside", "agreement", "heat_map", "approximation",
    "alignment", "layers", "singular", "directions", "trial", "cost", "limits", "again",
)  # fmt: skip
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='x",
    "{{ 7 * 7 }}",
    "$\\frac{1}{2}$",
    "طبقة.\u202eevil",
    "層" * 40,
    "x" * 300,
    "nul\x00 bell\x07\n",
    "]]>&amp;</svg>",
]


@pytest.fixture(scope="module")
def pages():
    return {language: render(analysis(), language, others=("en", "ja")) for language in ("en", "ja")}


class Reader(HTMLParser):
    """Checks that tags close in order and collects what a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \t\n]+", " ", "".join(self.texts))


@pytest.mark.parametrize("language", ["en", "ja"])
def test_page_is_balanced_and_has_every_section(pages, language):
    reader = Reader(pages[language])
    anchors = {attributes.get("id") for tag, attributes in reader.tags if tag == "section"}
    assert anchors == {"decision", "verdict", "meeting", *SECTIONS}
    assert len(pages[language].encode()) < 2_000_000


@pytest.mark.parametrize("language", ["en", "ja"])
def test_page_is_self_contained_under_a_strict_policy(pages, language):
    page = pages[language]
    reader = Reader(page)
    policy = next(a["content"] for t, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    style_is, script_is = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (style, script))
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{style_is}'; script-src 'sha256-{script_is}'; base-uri 'none'; "
        "form-action 'none'"
    )
    assert not re.search(r"fetch|XMLHttp|import\(|eval|innerHTML|location", script)
    assert page.count("<style") == 1
    assert "://" not in page
    assert "url(http" not in style
    assert "@import" not in style
    for tag, attributes in reader.tags:
        assert tag not in {"link", "img", "iframe", "object", "form"}
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert "src" not in attributes
        href = attributes.get("href") or "#"
        assert href.startswith("#") or href in {"report.en.html", "report.ja.html"}


def test_ids_are_unique(pages):
    identifiers = [a["id"] for _, a in Reader(pages["en"]).tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))


def test_every_picture_has_an_alternative_and_every_label_its_section(pages):
    tags = Reader(pages["en"]).tags
    plots = [a for tag, a in tags if tag == "svg" and a.get("class") == "plot"]
    assert len(plots) == 2 + 2 + 2 + 2 + 3 + 2 + 2 + 4 + 1 + 2 + 1 + 3
    assert all(a["role"] == "img" and a["aria-label"] for a in plots)
    identifiers = {a["id"] for _, a in tags if "id" in a}
    assert {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a} <= identifiers


def test_marks_say_what_they_stand_for(pages):
    data = analysis()
    for language, page in pages.items():
        words = Words(language)
        told = [a["data-tip"] for tag, a in Reader(page).tags if tag == "use" and "data-tip" in a]
        first = data["stages"][-1]["spectrum"]["values"][0]
        assert f"{words('plot.eigenvalue_number')}: 1\n{words('plot.curvature')}: {number(first)}" in told
        cell = f"{words('plot.eigenvector_number')}: 2\n"
        assert sum(tip.startswith(cell) for tip in told) == len(data["heat_map"]["squared"][1])
        shares = [percent(layer["update_energy"]) for layer in data["layers"]]
        assert {f"{words('source.updates')}\n{n}\n{s}" for (n, _), s in zip(LAYERS, shares, strict=True)} <= set(told)
    counts = {page.count("data-tip=") for page in pages.values()}
    assert len(counts) == 1
    assert counts.pop() > 400


@pytest.mark.parametrize("language", ["en", "ja"])
def test_key_sentences_carry_the_numbers_of_the_analysis(pages, language):
    data, text = analysis(), Reader(pages[language]).text
    told, last = data["verdict"], data["stages"][-1]
    row = last["agreement"][0]
    verdict = Reader(re.findall(r'<p class="verdict">.*?</p>', pages[language], re.S)[1]).text
    shares = [percent(told[part]) for part in ("captured", "uniform", "layer_matched")]
    assert [part in verdict for part in shares] == [True] * 3
    assert str(row["window"][0]) in verdict
    assert str(row["window"][1] - 1) in verdict
    for expected in (
        number(last["spectrum"]["values"][0]),
        percent(data["sampling"]["subspace_overlap"]),
        percent(sum(data["path"]["explained"])),
        percent(sum(data["path"]["random_walk"]["explained"])),
        percent(sum(data["components"]["updates"]["explained"][:10])),
        Words(language).duration(data["cost"]["seconds"]["total"]),
        count(data["cost"]["products"]),
        number(data["loss"]["held_out"]),
        data["command"],
    ):
        assert expected in text, expected


def test_languages_agree_in_every_number(pages):
    numbers = {language: sorted(re.findall(r"\d[\d.,]*\d|\d", Reader(page).text)) for language, page in pages.items()}
    assert numbers["en"] == numbers["ja"]


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_first_page_holds_the_decision_its_price_and_its_next_command(language):
    data = analysis()
    data["cost"]["trial_seconds"] = 1234.0
    found, words = decision(data), Words(language)
    first = re.search(r'<section id="decision".*?</section>', render(data, language), re.S)[0]
    text = Reader(first).text
    assert first.count('class="why"') == len(found.findings) == 3
    assert first.count('<th scope="row">') == len(found.places)
    for place in found.places:
        assert words.plain(f"action.{place.word}") in text
    assert words.duration(1234.0) in text
    assert "thalweg trial plan runs/digits --task thalweg.tasks.digits:task" in text
    assert percent(data["verdict"]["captured"]) in text
    meeting = Reader(re.search(r'<section id="meeting".*?</section>', render(data, language), re.S)[0]).text
    for figure in (count(data["run"]["parameters"]), words.duration(data["cost"]["seconds"]["total"])):
        assert figure in meeting
    assert words.duration(1234.0) in meeting


@pytest.mark.parametrize("language", ["en", "ja"])
def test_an_investment_says_what_was_asked_and_no_more(language, tried):
    data = {**analysis(), "trial": trial()}
    data["trial"]["plan"]["question"] = "as good"
    words = Words(language)
    text = Reader(render(data, language)).text
    incumbent = words.plain("arm.full")
    start = words.plain("decision.invest_as_good", arms="{}", incumbent=incumbent).split("{}")[1]
    assert start in text
    better = words.plain("meeting.invest", arms="", seeds=0, gain="{}", incumbent=incumbent).split("{}")[1]
    assert better not in text


def test_the_meeting_names_the_layer_that_is_compressed_first():
    data = analysis()
    row = data["layers"][0]
    data["layers"] = [
        {**row, "layer": f"l{rank}", "compression": rank, "compression_low": rank, "compression_high": rank}
        for rank in (1, 2, 3, 4)
    ]
    meeting = Reader(re.search(r'<section id="meeting".*?</section>', render(data, "en"), re.S)[0]).text
    assert "layer l1 can be compressed first" in meeting
    assert "layer l4 should be kept still" in meeting


def test_a_large_net_shows_layers_from_both_ends_on_the_first_page():
    data = analysis()
    layer = data["layers"][0]
    data["layers"] = [
        {**layer, "layer": f"block.{i}", "compression": i + 1, "compression_low": i + 1, "compression_high": i + 1,
         "fine_tuning": i + 1, "fine_tuning_high": i + 1}
        for i in range(40)
    ]  # fmt: skip
    first = re.search(r'<section id="decision".*?</section>', render(data, "en"), re.S)[0]
    shown = re.findall(r'<th scope="row">layer <bdi class="name">block\.(\d+)', first)
    assert shown == ["39", "38", "37", "2", "1", "0"]


def test_nothing_is_productive_before_a_trial(pages):
    text = Reader(pages["en"]).text
    assert "Undecided: no trial has tested yet" in text
    untested = text.count("Untested: whether any direction is productive")
    question = text.count("Whether any of them is productive stays a question")
    assert untested == question == 1
    assert text.count("productive") == 2


@pytest.mark.parametrize("word", ["agreement", "no agreement", "mixed"])
def test_each_verdict_has_its_sentence(word):
    data = analysis()
    data["verdict"]["word"] = word
    sentence = {
        "agreement": "Measured agreement",
        "no agreement": "No evidence of agreement",
        "mixed": "Mixed evidence",
    }
    assert f'<p class="verdict">{sentence[word]}' in render(data, "en")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_hostile_names_do_no_harm(language):
    data = analysis()
    clean = Reader(render(analysis(), language))
    layer = data["layers"][0]
    data["layers"] = [{**layer, "layer": name, "depth": i} for i, name in enumerate(HOSTILE)]
    data["run"]["folder"] = "runs/" + HOSTILE[1].replace("/", "")
    data["run"]["model"] = data["command"] = data["verdict"]["holds_layer"] = HOSTILE[0]
    data["run"]["optimizer"] = {"class": HOSTILE[1], "settings": {HOSTILE[0]: HOSTILE[2], HOSTILE[5]: HOSTILE[7]}}
    data["run"]["damaged"] = [[HOSTILE[0], HOSTILE[1]]]
    data["components"]["gradients"] = {"reason": HOSTILE[0]}
    page = render(data, language)
    reader = Reader(page)
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in reader.text
    assert "\u202e" not in page
    assert "\x00" not in page
    assert {tag for tag, _ in reader.tags} <= {tag for tag, _ in clean.tags} | {"bdi"}
    assert not [a for _, a in reader.tags if any(name.startswith("on") for name in a)]
    assert html.escape(HOSTILE[7]) in page


def test_bold_mathematics_is_not_read_into_a_name():
    data = analysis()
    data["layers"][0]["layer"] = r"$\frac{1}{2}$"
    assert r">$\frac{1}{2}$</text>" in render(data, "en")


NEEDED = ("path", "valley", "components", "stages", "heat_map", "approximation", "alignment", "layers", "singular",
          "drift", "density", "sharpness", "directions", "cost", "command")  # fmt: skip


def test_missing_parts_leave_a_sentence():
    """Each part alone, with all others missing, so that every section is seen without what it might lean on."""
    for part in (*NEEDED, "sampling", "verdict", "loss", "run", "problem", "settings", "held_out", "robustness"):
        text = Reader(render({"format": 1, part: analysis()[part]}, "en")).text
        for other in NEEDED:
            assert (f"“{other}”" in text) == (other != part), (part, other)


@pytest.mark.parametrize("part", ["sampling", "verdict", "run", "problem", "settings", "held_out", "robustness"])
def test_one_missing_part_does_no_harm(part):
    Reader(render({**analysis(), part: None}, "ja"))


def test_an_empty_analysis_is_still_a_page():
    text = Reader(render({"format": 1}, "en")).text
    assert "No verdict" in text
    assert text.count("Left out:") == len(NEEDED) + 1


TOLD = {"model": "exponential", "half_life": 210.4, "half_life_interval": [180.0, 260.0], "distance_left": 0.31}
ALONE = {"ahead": [], "layers": [], "scan": [], "in_stiff": None}
NO_COSINE = {"cosine": 0.5, "corrected": None, "interval": None}
DRIFTS = {
    "told": ({"half_life_word": "told", **TOLD}, "to half in 210 steps (180 to 260)"),
    "constant": ({"half_life_word": "law", "model": "constant"}, "does not fall"),
    "unseen": ({"half_life_word": "unseen", "model": "exponential"}, "cannot be told"),
    "undecided": ({"half_life_word": "undecided", "model": "undecided"}, "about equally well"),
    "power": ({}, "with exponent 1.2"),
    "decay": ({"p_value_without_decay": 0.031}, "With weight decay’s own part taken out"),
    "ahead": ({}, "for 1,000 more steps at its last speed"),
    "none": ({"found": False, "p_value": 0.42, "half_life_word": "no drift"}, "No evidence of a drift"),
    "alone": ({**ALONE, "persistence": NO_COSINE}, "keep moving in one direction"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_each_verdict_on_the_drift_has_its_sentence(name):
    change, sentence = DRIFTS[name]
    data = analysis()
    data["drift"] |= change
    assert sentence in Reader(render(data, "en")).text
    Reader(render(data, "ja"))


def test_a_run_too_short_for_the_drift_says_so():
    data = analysis()
    data["drift"] = {"reason": "the run has 30 usable rows"}
    assert "the run has 30 usable rows" in Reader(render(data, "en")).text


OUTSIDE = {
    "all": ({}, "Their two top‑10 eigenspaces overlap by 44%"),
    "limit": ({}, "of the limit at which this optimizer turns unstable"),
    "kept": ({}, "Of the top‑10 eigenspace, 75% is what it was"),
    "without": ({"held_out": None}, "No held-out data were given, so how the curvature looks"),
    "no noise": ({"robustness": {"reason": "labels cannot be told"}}, "was not measured: labels cannot be told"),
    "zeros": ({"sharpness": {"raw": 1.0, "filter": {"reason": "every weight is zero"}}}, "every weight is zero"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_stands_beside_the_training_curvature_is_said(name):
    change, sentence = OUTSIDE[name]
    data = {**analysis(), **change}
    assert sentence in Reader(render(data, "en")).text
    Reader(render(data, "ja"))


def test_noise_is_told_of_training_data_where_no_others_are():
    data = analysis()
    for row in data["robustness"]["rows"]:
        row["held_out"] = row["held_out_error"] = None
    assert "takes the training loss from 0.00412 to" in Reader(render(data, "en")).text


def test_moments_without_a_limit_do_no_harm():
    data = analysis()
    for stage in data["stages"]:
        stage["tracking"] |= {"threshold": None, "of_threshold": None}
    assert "turns unstable" not in Reader(render(data, "en")).text


def test_missing_pieces_do_no_harm():
    data = analysis()
    for part, piece in (
        ("path", "random_walk"),
        ("components", "gradients"),
        ("components", "random_walk"),
        ("loss", "held_out"),
        ("cost", "peak_memory_bytes"),
        ("cost", "gradient_seconds"),
        ("verdict", "p_value"),
        ("verdict", "holds_layer"),
        ("verdict", "best_source"),
        ("verdict", "layer_matched"),
    ):
        data[part][piece] = None
    Reader(render(data, "en"))


def test_missing_numbers_inside_the_stages_do_no_harm():
    data = analysis()
    last = data["stages"][-1]
    last["agreement"] = [row for row in last["agreement"] if row["source"] != "gradients"]
    for row in last["agreement"]:
        row["p_holm"] = row["nulls"]["layer_matched"] = None
    last["spectrum"].update(gaps=None, angles=None, residuals=None, converged=None, certificate="estimate")
    data["stages"][0]["agreement"] = []
    for layer in data["layers"]:
        layer["update_energy"] = layer["residuals"] = None
    data["sampling"] = None
    Reader(render(data, "en"))


def test_one_stage_negative_curvature_and_gradients_refused():
    data = analysis()
    data["stages"] = data["stages"][-1:]
    data["stages"][0]["spectrum"]["values"][-3:] = [0.0, -0.1, -0.2]
    data["components"]["gradients"] = {"reason": "Adam: the gradient cannot be worked out"}
    text = Reader(render(data, "en")).text
    assert "Gradients are not shown: Adam" in text
    assert "−0.2" in text


def test_a_whole_walk_of_one_point_and_a_net_of_many_layers():
    data = analysis()
    data["path"]["points"], data["path"]["steps"] = [[0.0, 0.0]], [0]
    layer = data["layers"][0]
    data["layers"] = [
        {**copy.deepcopy(layer), "layer": f"encoder.layer.{i}.output.dense", "depth": i, "values": [1.0 + i]}
        for i in range(200)
    ]
    page = render(data, "en")
    assert "the 40 layers of largest curvature out of 200" in Reader(page).text
    assert "encoder.layer.0.output.dense" in page
    assert len(page.encode()) < 2_000_000


def _folder(tmp_path, data):
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "analysis.json").write_text(json.dumps(data))
    return tmp_path


def test_report_writes_one_file_for_each_language(tmp_path):
    folder = _folder(tmp_path, analysis())
    paths = report(folder, languages=("en", "ja"))
    assert [path.name for path in paths] == ["report.en.html", "report.ja.html"]
    assert all(path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>") for path in paths)
    assert 'href="report.ja.html"' in paths[0].read_text(encoding="utf-8")
    assert 'href="report.ja.html"' not in report(folder, ["en"])[0].read_text(encoding="utf-8")


def test_report_says_what_is_missing(tmp_path):
    with pytest.raises(RunError, match="not a run"):
        report(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(RunError, match="has not been analysed; run: thalweg analyse"):
        report(tmp_path)


def test_a_refused_report_leaves_no_file(tmp_path):
    folder = _folder(tmp_path, analysis())
    with pytest.raises(InputError, match="'fr'"):
        report(folder, languages=("en", "fr"))
    assert list(folder.glob("report*")) == []
    (folder / "results" / "analysis.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="format 99"):
        report(folder)


def test_the_package_alone_imports_neither_matplotlib_nor_jinja2():
    code = "import sys, thalweg, thalweg.show; sys.exit(any(m in sys.modules for m in ('matplotlib', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- trials ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tried():
    return {language: render({**analysis(), "trial": trial()}, language) for language in ("en", "ja")}


def test_each_verdict_of_a_trial_has_its_sentence(tried):
    text = Reader(tried["en"]).text
    for sentence in (
        "updates:10: invest. It lowered the held-out loss further than every matched control and than full in the same",
        "eigenvectors:10: guard. These directions are 599 times as curved as layer-matched random ones",
        "Training in everything but eigenvectors:10 was ahead of it, by 11% of the loss at the start (9.0% to 13%)",
        "drift: harmful. It raised the held-out loss by 36% of what it was (27% to 45%).",
        "drift diverged in 2 of 9 seeds",
        "weights:10: no evidence. It was not ahead of",
        "weights:10 was stopped after 5 seeds",
        "The best step size of drift was at the edge",
        f"The trial took {seconds(154.0)} and 231,000 gradients.",
        f"takes about {seconds(95.0)}",
        "A trial on 9 seeds has put it to the test. Training in 10 components of the updates (updates:10): invest, it",
        "Training in the 10 stiffest directions (eigenvectors:10): guard, the loss is sensitive to them",
        "drift: harmful, it raised the held-out loss.",
        "The trial speaks of the arms that were tested, from one start, over 200 steps",
    ):
        assert sentence in text, sentence
    assert "no trial has run" not in text


def test_a_trial_says_the_same_in_both_languages(tried):
    numbers = {language: sorted(re.findall(r"\d[\d.,]*\d|\d", Reader(page).text)) for language, page in tried.items()}
    assert numbers["en"] == numbers["ja"]
    plots = [a for tag, a in Reader(tried["ja"]).tags if tag == "svg" and a.get("class") == "plot"]
    assert len(plots) == 26 + 5


def test_a_pilot_alone_decides_nothing(tried):
    piloted = {**trial(), "stage": "pilot", "stages": {}}
    text = Reader(render({**analysis(), "trial": piloted}, "en")).text
    assert "Only the pilot has run, so nothing is decided." in text
    assert "Undecided: no trial has tested yet" in text


def test_only_seeds_that_were_judged_are_counted():
    """All arms stopped half way: the head does not claim the seeds that were planned."""
    short = trial()
    for one in short["stages"]["confirm"]["verdicts"]:
        one["seeds"] = 5
    assert "A trial on 5 seeds has put it to the test." in Reader(render({**analysis(), "trial": short}, "en")).text
    assert "a trial on 5 seeds" in verdict_line(short)


def test_as_good_at_a_saving_is_told_as_such():
    good = trial()
    good["plan"]["question"] = "as good"
    good["stages"]["confirm"]["verdicts"][0]["saving"] = 0.4
    text = Reader(render({**analysis(), "trial": good}, "en")).text
    assert "came as close to full as was asked, in 40% less time" in text


def test_an_untested_run_has_the_command_that_plans_its_trial():
    data = analysis()
    data["command"] = "thalweg analyse 'my runs/a' --task my.py:task --set width=3 --k 4 --seed 2"
    text = Reader(render(data, "en")).text
    assert "thalweg trial plan 'my runs/a' --task my.py:task --set width=3" in text
    assert "thalweg trial plan" in Reader(render({**data, "command": None}, "en")).text


def test_hostile_names_in_a_trial_do_no_harm():
    data = trial()
    text = json.dumps(data).replace("updates:10", "<script>alert(1)</script>")
    page = render({**analysis(), "trial": json.loads(text)}, "en")
    assert page.count("<script") == 1


def test_the_report_takes_the_trial_of_the_run_folder(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1}))
    (tmp_path / "results" / "analysis.json").write_text(json.dumps(analysis()))
    (tmp_path / "results" / "trial.json").write_text(json.dumps(trial()))
    (path,) = report(tmp_path, "en")
    assert "guard. These directions" in Reader(path.read_text()).text


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_valley_without_held_out_data_or_finite_walls_is_still_shown(language):
    data = analysis()
    for curve in data["valley"]["curves"].values():
        curve["held_out"] = None
    data["valley"]["curves"]["stiff"]["train"][0] = None
    data["valley"]["curves"].pop("drift")
    data["surface"]["losses"][0][0] = None
    page = render(data, language)
    section = re.search(r'<section id="valley".*?</section>', page, re.S)[0]
    assert section.count('class="plot"') == 1
    assert Words(language).plain("valley.drift") not in Reader(section).text


def test_lines_of_equal_loss_stand_in_equal_ratios_and_only_where_losses_are_positive():
    at = levels(analysis()["surface"])
    ratios = [b / a for a, b in pairwise(at)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert levels({"least": -1.0, "most": 2.0}) == []
    data = analysis()
    data["surface"] |= {"least": -0.1}
    assert Words("en").plain("path.lines") not in Reader(render(data, "en")).text
    data["surface"] = None
    assert "plane through the last weights" not in Reader(render(data, "en")).text


def test_every_section_explains_its_words_and_every_table_its_chance(pages):
    for language, page in pages.items():
        words = Words(language)
        for section, names in TERMS.items():
            own = re.search(rf'<section id="{section}".*?</section>', page, re.S)[0]
            for name in names:
                assert f"<dt>{words(f'term.{name}')}</dt><dd>{words(f'term.{name}.means')}</dd>" in own, section
        for section in ("singular", "directions"):  # no picture, and still what chance looks like
            own = re.search(rf'<section id="{section}".*?</section>', page, re.S)[0]
            assert f"<dt>{words('reading.null')}</dt>" in own
    assert set(TERMS) - {"decision", "verdict"} <= set(SECTIONS)
    used = {name for names in TERMS.values() for name in names}
    assert used == {key.split(".")[1] for key in CATALOGUES["en"] if key.startswith("term.")}


def test_layers_stand_with_their_intervals_by_depth(pages):
    told = [a["data-tip"] for tag, a in Reader(pages["en"]).tags if tag == "use" and "data-tip" in a]
    rows = sorted(analysis()["layers"], key=lambda row: row["depth"])
    words = Words("en")
    costs = [words.plain("layers.ranged", value=number(r["noise_cost"]), low=number(r["noise_cost_low"]),
                         high=number(r["noise_cost_high"])) for r in rows]  # fmt: skip
    wanted = [
        f"{row['layer']}\n{words('layers.column.noise_cost')}: {cost}" for row, cost in zip(rows, costs, strict=True)
    ]
    assert [tip for tip in told if tip in wanted] == wanted
    single = analysis()
    for row in single["layers"]:  # one batch has no interval
        row["noise_cost_low"] = row["noise_cost_high"] = None
    assert "layers-costs" in render(single, "en")
    for row in single["layers"]:
        del row["noise_cost"]
    assert "layers-costs" not in render(single, "ja")
