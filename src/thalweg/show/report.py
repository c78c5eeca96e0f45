"""The report: one self-contained HTML file for each language.

It reads only what `analyse` stored, imports no user code and sends no request. Everything from the run is escaped; the
content security policy allows exactly one style sheet and one script (which sorts tables and lets pictures answer), by
their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from thalweg.decision import decision
from thalweg.errors import RunError
from thalweg.runs import read_json, read_manifest, write_atomically
from thalweg.show import palette
from thalweg.show.messages import Words
from thalweg.show.numbers import clean, clip, count
from thalweg.show.sections import sections
from thalweg.show.sections.decision import meeting, page
from thalweg.show.sections.verdict import verdict
from thalweg.show.terms import terms

FORMAT = 1
ANALYSIS = "results/analysis.json"
TRIAL = "results/trial.json"


def report(run_folder: str | Path, languages: Sequence[str] = ("en", "ja")) -> list[Path]:
    """Write the report of an analysed run.

    Args:
        run_folder: the run.
        languages: "en", "ja".

    Returns:
        The files written, `report.en.html` and so on, in the run folder.

    Raises:
        RunError: if the folder is no run, or has not been analysed.
        InputError: if there is no such language.
    """
    languages = (languages,) if isinstance(languages, str) else tuple(dict.fromkeys(languages))
    for language in languages:
        Words(language)  # a language that is none is told whatever else is wrong
    folder, analysis = Path(run_folder), load_analysis(run_folder)
    texts = {language: render(analysis, language, others=languages) for language in languages}
    paths = []
    for language, text in texts.items():
        path = folder / file_name(language)
        write_atomically(path, text.encode())
        paths.append(path)
    return paths


def load_analysis(run_folder: str | Path) -> dict[str, Any]:
    """What `analyse` stored in a run folder, with the trial under "trial" where there is one.

    Raises:
        RunError: if the folder is no run, or has not been analysed by a version whose results this one reads.
    """
    folder = Path(run_folder)
    read_manifest(folder)
    if not (folder / ANALYSIS).is_file():
        raise RunError(f"{folder} has not been analysed; run: thalweg analyse {folder} --task TASK")
    analysis = read_json(folder / ANALYSIS)
    if analysis.get("format") != FORMAT:
        raise RunError(
            f"{folder / ANALYSIS} has format {analysis.get('format')!r}, this version reads {FORMAT}; "
            f"run: thalweg analyse {folder} --task TASK"
        )
    if (folder / TRIAL).is_file():
        analysis["trial"] = read_json(folder / TRIAL)
    return analysis


def file_name(language: str) -> str:
    """The report's file in the run folder."""
    return f"report.{language}.html"


def render(analysis: Mapping[str, Any], language: str, others: Sequence[str] = ()) -> str:
    """The report as one HTML page.

    Args:
        analysis: what `analyse` stored.
        language: "en" or "ja".
        others: languages that stand beside it as files of their own, to link to.
    """
    words, found = Words(language), decision(analysis)
    folder = (analysis.get("run") or {}).get("folder")
    style, code = style_sheet(), script()
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            language=language,
            words=words,
            style=Markup(style),
            script=Markup(code),
            policy=policy(style, code),
            title=words.plain("page.title", run=run_title(analysis)),
            run_title=run_title(analysis),
            run_folder=shlex.quote(clean(str(folder))) if folder else "",
            facts=_facts(analysis, words),
            notices=_notices(analysis, words),
            page=page(analysis, found, words),
            verdict=verdict(analysis, words),
            sections=[*sections(analysis, words), meeting(analysis, found, words)],
            terms=lambda section: terms(section, words),
            links=[(other, file_name(other)) for other in others if other != language],
        )
    )


def policy(style: str, code: str) -> str:
    """The content security policy for a page with this one style sheet and this one script."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, code)]
    allowed = f"style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


@cache
def script() -> str:
    """The page's script."""
    return "\n" + resources.files("thalweg.show").joinpath("templates/report.js").read_text(encoding="utf-8")


@cache
def style_sheet() -> str:
    """The page's style sheet: the palette's colours, then the layout."""
    layout = resources.files("thalweg.show").joinpath("templates/report.css").read_text(encoding="utf-8")
    return "\n" + palette.style_sheet() + layout


@cache
def environment() -> jinja2.Environment:
    """The templates, everything in them escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("thalweg.show", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def run_title(analysis: Mapping[str, Any]) -> str:
    """A run's name: that of its folder."""
    folder = str((analysis.get("run") or {}).get("folder") or "run")
    return clip(Path(folder).name or folder, 80)


def _facts(analysis: Mapping[str, Any], words: Words) -> list[Markup]:
    run = analysis.get("run") or {}
    made = words(
        "page.made",
        created=clean(str(analysis.get("created", "–")))[:16].replace("T", " "),
        thalweg=analysis.get("thalweg", "–"),
        torch=analysis.get("torch", "–"),
    )
    if not run:
        return [made]
    first, last = run.get("steps") or (0, 0)
    described = words(
        "page.run",
        model=clean(str(run.get("model", "–")).rpartition(".")[2]),
        parameters=count(run.get("parameters")),
        layers=count(run.get("layers")),
        optimizer=clean(str((run.get("optimizer") or {}).get("class", "–"))),
        steps=count(last - first + 1),
    )
    if (run.get("every") or 1) > 1:
        described += words("page.between") + words("page.every", every=count(run["every"]))
    return [described, made]


def _notices(analysis: Mapping[str, Any], words: Words) -> list[Markup]:
    run = analysis.get("run") or {}
    notices = [
        words("page.damaged", file=clean(str(file)), reason=clean(str(reason)))
        for file, reason in run.get("damaged") or ()
    ]
    if run.get("gaps"):
        gaps = ", ".join(f"{count(first)}–{count(stop - 1)}" for first, stop in run["gaps"])  # half-open
        notices.append(words("page.gaps", gaps=gaps))
    keep = run.get("keep") or {}
    if keep.get("form") == "bfloat16":
        notices.append(words("page.kept.rounded", format="bfloat16", error="0.4 %"))
    if keep.get("form") == "sketch":
        floor = (max((analysis.get("settings") or {}).get("components") or [1])) / keep["width"]
        notices.append(words("page.kept.sketch", width=count(keep["width"]), floor=f"{floor:.1g}"))
    if run.get("frozen"):
        notices.append(words("page.frozen", frozen=count(run["frozen"])))
    return notices
