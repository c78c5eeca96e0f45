import math

import pytest

from thalweg.show import numbers

NB = "\u00a0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (14.26, "14.3"), (0.000996, "0.000996"), (0.0009999, "0.00100"), (1234.6, "1,235"), (-0.5, "−0.500"),
        (3.2e-9, "3.2×10⁻⁹"), (1e7, "10⁷"), (None, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert numbers.number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0%"), (0.714, "71%"), (0.0417, "4.2%"), (0.00083, "0.083%"), (1, "100%"), (0.9999, "99.9%"),
        (0.996, "99.6%"), (0.0999, "10%"), (1e-9, "<0.001%"), (None, "–"),
    ],
)  # fmt: skip
def test_percent_never_rounds_to_the_whole_or_to_nothing(share, text):
    assert numbers.percent(share) == text


@pytest.mark.parametrize(
    ("p", "log10_p", "text"),
    [
        (0.0132, None, "= 0.013"), (1.0, 0.0, "≈ 1"), (0.0, -412.0, "< 10⁻³⁰⁰"), (1e-12, -12.0, "≈ 10⁻¹²"),
        (None, -2.301, "= 0.005"), (None, None, "–"), (0.0, None, "< 10⁻³⁰⁰"),
    ],
)  # fmt: skip
def test_p_value(p, log10_p, text):
    assert numbers.p_value(p, log10_p) == text.replace(" ", NB)


def test_durations_and_sizes():
    assert numbers.seconds(0.0072) == f"7.2{NB}ms"
    assert numbers.seconds(18.7) == f"19{NB}s"
    assert numbers.seconds(600) == f"10{NB}min"
    assert numbers.size(612_000_000) == f"584{NB}MiB"


def test_clip_keeps_both_ends_and_counts_wide_letters_twice():
    assert numbers.clip("encoder.layers.11.attention.out_proj", 20) == "encoder.la….out_proj"
    assert numbers.columns(numbers.clip("層" * 40, 20)) <= 20
    assert numbers.clip("short", 20) == "short"


def test_clean_takes_out_what_breaks_xml_or_turns_text():
    assert numbers.clean("a\x00b\u202ec\ud800") == "a�b�c�"


def test_thinned_keeps_the_ends():
    assert numbers.thinned(3, 600) == [0, 1, 2]
    places = numbers.thinned(10_001, 600)
    assert (places[0], places[-1]) == (0, 10_000)
    assert len(places) == 600
