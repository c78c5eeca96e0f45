"""The decision that stored results lead to, rule by rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.show import sample
from thalweg.decision import Decision, Place, decision


def analysed(**changes: Any) -> dict[str, Any]:
    return {**sample.analysis(), **changes}


def tried(*words: str, power: float = 0.9) -> dict[str, Any]:
    """A trial whose arms end in these words."""
    data = sample.trial()
    judged = data["stages"]["confirm"]
    judged["verdicts"] = [{**judged["verdicts"][i], "word": word} for i, word in enumerate(words)]
    data["pilot"]["arms"] = [{"arm": one["arm"], "power": power} for one in judged["verdicts"]]
    return data


def place(found: Decision, name: str) -> Place:
    (one,) = [place for place in found.places if place.name == name]
    return one


def test_before_a_trial_it_is_undecided_and_the_test_comes_next() -> None:
    data = analysed()
    data["cost"]["trial_seconds"] = 240.0
    found = decision(data)
    assert (found.state, found.arms) == ("undecided", ())
    assert found.following == {"stage": "trial", "seconds": 240.0}
    assert [one.kind for one in found.findings] == ["agreement", "held_out", "drift"]
    assert decision(analysed(loss={"train": 0.1, "held_out": None})).following["stage"] == "held_out"
    assert "invest" not in {place.word for place in found.places}
    assert found.unknown[0] == ("pays", {})


def test_a_pilot_alone_decides_nothing() -> None:
    data = sample.trial()
    data |= {"stage": "pilot", "stages": {}, "next": {"stage": "confirm", "go_on": True, "seconds": 80.0}}
    found = decision(analysed(), data)
    assert found.state == "undecided"
    assert found.following == {"stage": "confirm", "seconds": 80.0}
    dear = {**data, "next": {"stage": "confirm", "go_on": False, "seconds": 80.0}}
    assert decision(analysed(), dear).following == {"stage": "none", "seconds": None}


@pytest.mark.parametrize(
    ("words", "state", "many"),
    [
        (("invest", "guard", "harmful"), "invest", 1),
        (("guard", "no evidence"), "keep", 2),
        (("harmful", "guard"), "keep", 2),  # one that does harm does not speak for the other
        (("harmful", "harmful"), "stop", 2),
    ],
)
def test_the_state_follows_from_the_words(words: tuple[str, ...], state: str, many: int) -> None:
    found = decision(analysed(), tried(*words))
    assert found.state == state
    assert len(found.arms) == many
    assert found.findings[0].kind == "trial"
    assert len(found.findings) == 3


def test_no_evidence_weighs_as_much_as_the_power_that_stood_behind_it() -> None:
    strong, weak = (decision(analysed(), tried("guard", power=power)) for power in (0.81, 0.79))
    assert [found.findings[0].certainty for found in (strong, weak)] == ["fair", "open"]
    assert "power" not in dict(strong.unknown)
    assert weak.following["stage"] == "larger"
    assert dict(weak.unknown)["power"]["power"] == 0.79


def test_a_trial_that_was_too_small_says_how_large_it_should_be() -> None:
    data = tried("guard", "no evidence", power=0.3)
    for arm, seeds in zip(data["pilot"]["arms"], (40, 130), strict=True):
        arm["seeds_needed"] = seeds
    assert decision(analysed(), data).following["seeds"] == 130
    data["pilot"]["arms"][0]["seeds_needed"] = None
    assert decision(analysed(), data).following["seeds"] is None


@pytest.mark.parametrize(("p_holm", "certainty"), [(0.0009, "firm"), (0.02, "fair")])
def test_an_investment_is_as_sure_as_its_p_value(p_holm: float, certainty: str) -> None:
    data = tried("invest")
    data["stages"]["confirm"]["verdicts"][0]["p_holm"] = p_holm
    assert decision(analysed(), data).findings[0].certainty == certainty


@pytest.mark.parametrize(
    ("word", "overlap", "certainty"),
    [
        ("agreement", 0.6, "firm"),
        ("agreement", 0.4, "fair"),  # the space itself is another on other data
        ("agreement", None, "fair"),
        ("mixed", 0.6, "fair"),
        ("no agreement", 0.6, "open"),
    ],
)
def test_an_agreement_is_firm_where_the_space_itself_is(word: str, overlap: float | None, certainty: str) -> None:
    data = analysed()
    data["verdict"] |= {"word": word, "p_value": 1e-12}
    data["sampling"] = None if overlap is None else {**data["sampling"], "subspace_overlap": overlap}
    assert decision(data).findings[0].certainty == certainty


@pytest.mark.parametrize(
    ("half", "other", "certainty"), [(1.2, 1.0, "firm"), (1.0, 1.9, "fair"), (3.0, 1.0, "open"), (1.0, -0.1, "open")]
)
def test_what_is_said_of_held_out_data_is_as_sure_as_two_halves_agree(
    half: float, other: float, certainty: str
) -> None:
    data = analysed()
    data["sampling"] |= {"half_values": [half], "other_half": [other]}
    found = decision(data)
    assert found.findings[1].kind == "held_out"
    assert found.findings[1].certainty == certainty
    assert ("samples" in dict(found.unknown)) == (certainty != "firm")


def layer(name: str, rank: int, low: float, high: float, tune: int = 1, tune_high: float = 4.0) -> dict[str, Any]:
    return {
        "layer": name, "compression": rank, "compression_low": low, "compression_high": high, "fine_tuning": tune,
        "fine_tuning_high": tune_high, "noise_cost": 0.1, "gain": 0.1, "parameters": 10,
    }  # fmt: skip


def test_layers_are_guarded_or_left_where_their_rank_is_sure() -> None:
    layers = [layer("a", 1, 1, 2), layer("b", 2, 1, 3), layer("c", 3, 3, 4), layer("d", 4, 2, 4, tune_high=2.0)]
    found = decision(analysed(layers=layers))
    words = {place.name: place.word for place in found.places if place.kind == "layer"}
    assert words == {"a": "leave", "b": "undecided", "c": "guard", "d": "undecided"}
    assert [place.name for place in found.places if place.first] == ["d"]
    order = [place.word for place in found.places]
    assert order == sorted(order, key=["invest", "guard", "undecided", "leave"].index)


def test_a_layer_that_a_trial_invests_in_is_named() -> None:
    data = tried("invest", "guard")
    arm = data["stages"]["confirm"]["verdicts"][0]["arm"]
    data["about"] = {arm: {"layers": ["a"]}}
    found = decision(analysed(layers=[layer("a", 1, 1, 2), layer("b", 2, 1, 2)]), data)
    assert (place(found, "a").word, place(found, "a").reason) == ("invest", "trial")
    assert place(found, "b").word == "undecided"


def test_nothing_is_sure_without_intervals_or_among_one() -> None:
    bare = [{**layer(name, rank, 0, 0), "compression_low": None, "compression_high": None, "fine_tuning_high": None}
            for rank, name in enumerate("ab", 1)]  # fmt: skip
    for layers in (bare, [layer("only", 1, 1, 1)]):
        found = [place for place in decision(analysed(layers=layers)).places if place.kind == "layer"]
        assert {place.word for place in found} == {"undecided"}
        assert not any(place.first for place in found)


@pytest.mark.parametrize(
    ("held_out", "overlap", "word"),
    [(1.0, 0.9, "alike"), (1.9, 0.5, "alike"), (2.1, 0.9, "other"), (1.0, 0.4, "other")],
)
def test_held_out_data_is_called_other_only_where_it_is(held_out: float, overlap: float, word: str) -> None:
    data = analysed()
    data["stages"][-1]["spectrum"]["values"] = [1.0]
    data["held_out"] |= {"values": [held_out], "subspace": overlap}
    assert decision(data).findings[1].word == word


def test_the_gain_is_the_winners_own() -> None:
    data = tried("invest", "no evidence")
    first, second = data["stages"]["confirm"]["verdicts"]
    first["gain"], second["gain"] = {"mean": 0.0055}, {"mean": 0.044}
    assert decision(analysed(), data).findings[0].values["gain"] == pytest.approx(0.05)  # of a start of 0.11


def test_a_win_at_full_length_is_the_end_of_the_way() -> None:
    data = tried("invest")
    data["next"] = {"stage": None, "go_on": True, "seconds": 0.0, "reason": "done"}
    assert decision(analysed(), data).following["stage"] == "done"


def group(label: str, words: list[str], held_out: float | None = 0.1) -> list[dict[str, Any]]:
    return [
        {"label": label, "index": i, "words": word, "gain": 1.0 - i, "gain_held_out": held_out}
        for i, word in enumerate(words)
    ]


@pytest.mark.parametrize(
    ("label", "words", "held_out", "word"),
    [
        ("Hessian eigenvectors", ["stiff", "stiff", ""], 0.1, "guard"),
        ("Hessian eigenvectors", ["stiff", "", ""], 0.1, "undecided"),
        ("PCA of weights", ["sloppy", "sloppy", "drifting"], 0.1, "leave"),
        ("drift", ["drifting"], -0.1, "leave"),
        ("drift", ["drifting"], 0.1, "undecided"),
        ("drift", ["drifting"], None, "undecided"),
    ],
)
def test_groups_bear_the_word_of_most(label: str, words: list[str], held_out: float | None, word: str) -> None:
    assert place(decision(analysed(directions=group(label, words, held_out))), label).word == word


@pytest.mark.parametrize(("said", "word"), [("invest", "invest"), ("harmful", "leave"), ("no evidence", "guard")])
def test_a_trial_outdoes_what_the_curvature_says(said: str, word: str) -> None:
    data = tried(said)
    source = data["stages"]["confirm"]["verdicts"][0]["arm"].split(":")[0]
    label = {"updates": "PCA of updates", "eigenvectors": "Hessian eigenvectors"}[source]
    found = place(decision(analysed(directions=group(label, ["stiff"])), data), label)
    assert found.word == word
    assert found.values["tried"] == said


def test_nothing_is_said_of_what_is_missing() -> None:
    for part in sample.analysis():
        decision({part: sample.analysis()[part]})
    assert decision({}).findings == ()
    assert decision({}).places == ()
    assert decision({}).state == "undecided"


def test_stored_results_stay_as_they_are() -> None:
    data, trial = analysed(), tried("invest", "harmful")
    before = copy.deepcopy((data, trial))
    decision(data, trial)
    assert (data, trial) == before
