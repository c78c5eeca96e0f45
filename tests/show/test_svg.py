import html
import re

import matplotlib
import pytest

from tests.show.sample import analysis
from thalweg.show import palette, plots, style, svg
from thalweg.show.messages import Words


def _picture(prefix: str = "a", title: str = "t") -> str:
    with matplotlib.rc_context(svg.SETTINGS):
        figure = svg.figure(360, 200)
        axes = figure.add_axes((0.1, 0.2, 0.8, 0.7))
        plots.eigenvalues(axes, analysis()["stages"][-1]["spectrum"], Words("ja"), analysis()["sampling"])
        return svg.inline(figure, prefix, title)


def test_no_styles_no_namespaces_no_addresses():
    text = _picture()
    assert "style" not in text
    assert "http" not in text
    assert "xlink" not in text
    assert "ns0:" not in text


def test_text_stays_text_in_the_page_fonts():
    text = _picture()
    assert "固有値（大きい順）</text>" in text
    assert "font-family" not in text


def test_ids_carry_the_prefix_and_every_reference_is_met():
    text = _picture("figure-7")
    identifiers = re.findall(r' id="([^"]*)"', text)
    references = re.findall(r"(?:href=\"#|url\(#)([^\")]*)", text)
    assert identifiers
    assert all(name.startswith("figure-7-") for name in identifiers)
    assert set(references) == set(identifiers)


def test_every_colour_follows_the_scheme():
    for tag in re.findall(r"<[^>]*#[0-9a-f]{6}[^>]*>", _picture()):
        assert "class=" in tag, tag


def test_the_alternative_text_is_escaped():
    assert 'aria-label="&quot;&lt;b&gt;&quot;"' in _picture(title='"<b>"')
    assert 'role="img"' in _picture()


def test_the_same_data_give_the_same_bytes():
    assert _picture() == _picture()


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    _picture()
    assert dict(matplotlib.rcParams) == before


def test_palette_colours_are_distinct_and_have_contrast():
    assert len(palette.class_names()) >= len(palette.LIGHT) + len(palette.HUES) * (palette.LEVELS - 1)
    for scheme in (palette.LIGHT, palette.DARK):
        for name in ("ink", "muted"):
            assert _contrast(scheme[name], scheme["paper"]) >= 4.5
        for name in palette.HUES:
            assert _contrast(scheme[name], scheme["paper"]) >= 3


@pytest.mark.parametrize("level", [-3, 99])
def test_a_tint_beyond_the_ends_is_the_end(level):
    assert palette.tint("updates", level) in {palette.tint("updates", 0), palette.colour("updates")}


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _told(x, texts):
    with matplotlib.rc_context(svg.SETTINGS):
        figure = svg.figure(360, 200)
        axes = figure.add_axes((0.1, 0.2, 0.8, 0.7))
        (marks,) = axes.plot(x, x, "o-")
        style.tell(marks, ("place", texts), ("", texts), '<i>"heading"')
        axes.set_xlim(0, 3)
        style.frame(axes, grid="")
        return svg.inline(figure, "a", "t")


def test_every_mark_says_its_own_and_nothing_unescaped():
    text = _told([1, 2], ["one", "<two>"])
    tips = [html.unescape(tip) for tip in re.findall(r'data-tip="([^"]*)"', text)]
    assert tips == ['<i>"heading"\nplace: one\none', '<i>"heading"\nplace: <two>\n<two>']
    assert "<i>" not in text
    assert "tips" not in text
    assert text.count('class="frame"') == 2


def test_marks_that_are_not_drawn_leave_nothing_said_rather_than_something_wrong():
    assert re.findall(r"place: (\w+)", _told([1, 200, 2], ["one", "far", "two"])) == ["one", "far", "two"]
    assert "data-tip" not in _told([1, float("nan"), 2], ["one", "none", "two"])
