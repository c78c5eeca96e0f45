import re
import string
from pathlib import Path

import pytest

import thalweg.show
from thalweg.errors import InputError
from thalweg.show.messages import CATALOGUES, PARTS, Words


def _placeholders(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def test_no_message_stands_twice():
    for parts in PARTS.values():
        keys = [key for part in parts for key in part.TEXTS]
        assert len(keys) == len(set(keys))


def test_languages_have_the_same_keys():
    assert set(CATALOGUES["en"]) == set(CATALOGUES["ja"])


@pytest.mark.parametrize("key", sorted(CATALOGUES["en"]))
def test_languages_take_the_same_values(key):
    assert _placeholders(CATALOGUES["en"][key]) == _placeholders(CATALOGUES["ja"][key])


@pytest.mark.parametrize("language", sorted(CATALOGUES))
def test_a_text_holds_no_number_of_its_own(language):
    assert [key for key, text in CATALOGUES[language].items() if re.search(r"\d", text)] == []


def test_every_message_is_used():
    show = Path(thalweg.show.__file__).parent
    files = [path for ending in ("*.py", "*.j2") for path in show.rglob(ending) if path.parent.name != "messages"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    looked_up = re.compile(
        r"(term|source|reading|stage|mode|certificate|cost|label|word|law|arm|verdict\.word|trial\.word)\.|"
        r"(action|certainty|finding|place|group|unknown|decision|meeting|compare)\.|\w+\.(column\.|title$|what$|null$|how$|not$)"
    )
    parts = {"path.weights", "path.random", "agreement.inexact", "approximation.top_share", "approximation.fresh_share"}
    parts |= {"outside.noise.inputs", "outside.noise.labels", "outside.data.train", "outside.data.held_out"}
    parts |= {key for key in CATALOGUES["en"] if key.startswith("trial.control.")}
    parts |= {"valley.stiff", "valley.drift", "valley.random"}
    parts |= {"outside.key.none", "density.absent.no_spread"}  # made of a part's name and a word of the analysis
    unused = [key for key in CATALOGUES["en"] if f'"{key}"' not in source and not looked_up.match(key)]
    assert set(unused) <= parts


def test_values_are_escaped():
    assert "<script>" not in Words("en")("page.damaged", file="<script>", reason="&")
    assert Words("en").plain("page.damaged", file="<a>", reason="b") == "Damaged and left out: <a> (b)"


def test_an_unknown_language_is_named():
    with pytest.raises(InputError, match=r"'fr'.*'en'"):
        Words("fr")
