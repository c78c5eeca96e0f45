"""One job on one, two and four processes: the same numbers, what is sent, what is held, and how it ends when one fails.

Every job is a real `torchrun` with gloo.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import thalweg as tw
from tests.distributed.job import SIZES, data, results
from thalweg.checkup.ranks import Gpu, Net, passing, plan_ranks, traffic
from thalweg.cli import app
from thalweg.collectives import ALONE, Layout, Ranks, first_rank, ranks
from thalweg.recording.merging import merge_parts
from thalweg.shares import own_part
from thalweg.survey import surveyed

pytestmark = pytest.mark.xdist_group("ranks")  # its module's fixtures are made once

ROOT = Path(__file__).parents[2]
EXACT = ("loss", "gradient", "hessian", "gauss_newton", "fisher", "covariance", "block", "values", "trace", "density",
         "line", "layers", "vectors", "overlap", "spectra", "remembered")  # fmt: skip


def job(count: int, part: str, folder: Path, timeout: float = 120, **also: str) -> subprocess.CompletedProcess[str]:
    """A real job; one process without torchrun. What else is named goes into the environment."""
    own = ["-m", "tests.distributed.job", part, str(folder)]
    launched = [
        "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(29500 + os.getpid() % 400),
        "--monitor-interval", "0.2",
    ]  # fmt: skip
    command = [sys.executable, *(launched if count > 1 else []), *own]
    away = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in away} | {
        "OMP_NUM_THREADS": "1",
        **also,
    }
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


PARTS = {
    1: ("same", "few", "recorded", "sharded", "tried"),
    2: ("same", "shared", "few", "recorded", "sharded", "tried"),
    4: ("same",),  # the others take a minute on two cores
}
FOUR = pytest.param(4, marks=pytest.mark.prove)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], tuple[Path, list[dict[str, Any]]]]:
    """Results of a part on a number of processes; there is one job for each number, since starting takes longest."""
    folder, known = tmp_path_factory.mktemp("jobs"), dict[tuple[int, str], list[dict[str, Any]]]()

    def of(count: int, part: str) -> tuple[Path, list[dict[str, Any]]]:
        if (count, part) not in known:
            parts = PARTS[count] if part in PARTS[count] else (part,)
            done = job(count, ",".join(parts), folder, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
            known.update({(count, name): list(results(folder, name, count)) for name in parts})
        return folder, known[count, part]

    return of


Ran = Callable[[int, str], tuple[Path, list[dict[str, Any]]]]


@pytest.mark.parametrize(("count", "part"), [(2, "same"), (4, "same"), (2, "shared")])
def test_every_rank_gets_the_numbers_of_one_process(ran: Ran, count: int, part: str) -> None:
    (alone,) = ran(1, "same")[1]
    for found in ran(count, part)[1]:
        for name in EXACT:
            assert np.allclose(found[name], alone[name], rtol=1e-6, atol=1e-9), name
        if part == "same":  # dealt out as one process would go through them
            for name in ("halves", "half_sizes", "priority"):
                assert np.allclose(found[name], alone[name], rtol=1e-6), name
        assert np.allclose(found["differences"], alone["differences"], rtol=1e-3, atol=1e-6)
        assert np.allclose(found["largest"], alone["largest"], rtol=1e-3)
        assert found["certificate"] == alone["certificate"] == "complete"
        assert found["products"] == alone["products"]
        assert found["about"] == alone["about"] | {"ranks": count}
        assert found["about"]["samples"] == sum(SIZES)


@pytest.mark.parametrize("count", [2, 4])
def test_what_is_sent_is_what_the_theory_says(ran: Ran, count: int) -> None:
    size = 9 * 8 + 4 * 10
    for found in ran(count, "same")[1]:
        assert found["sent"] == {"all_reduce": 8 * size}  # one all-reduce of P numbers a product
        products = found["products"]
        sent, calls = found["sent_by_search"], found["calls_of_search"]
        assert calls["reduce_scatter"] == calls["all_gather"] == products
        steps = products - 1  # the last product is the certificate's
        foretold = traffic(size, count, products, steps, itemsize=8)
        assert {name: sent[name] for name in ("reduce_scatter", "all_gather")} == {
            name: foretold[name] for name in ("reduce_scatter", "all_gather")
        }
        assert foretold["all_gather"] == pytest.approx(8 * size * products, rel=0.05)  # with the other, an all-reduce
        beside = calls["all_reduce"] - 2 * steps  # the start vector's, and one length for the certificate
        assert 0 < beside <= 8
        assert 0 < sent["all_reduce"] - foretold["sums"] <= 8 * 3 * beside


def test_memory_falls_as_ranks_are_added_and_parts_are_opened_on_one_machine(ran: Ran) -> None:
    size = 9 * 8 + 4 * 10
    (alone,) = ran(1, "same")[1]
    assert alone["held"] == size
    for count in (2, 4):
        folder, found = ran(count, "same")
        assert [one["held"] for one in found] == [size // count] * count
        opened = tw.Directions.load(folder / f"pairs{count}.safetensors")
        assert np.allclose(opened.vectors.abs(), alone["vectors"], atol=1e-8)
        assert opened.provenance["ranks"] == count
        files = sorted(folder.glob(f"pairs{count}.*"))
        assert len(files) == count
        assert max(file.stat().st_size for file in files) < (folder / "pairs1.safetensors").stat().st_size
    (folder / "pairs4.2-of-4.safetensors").rename(folder / "elsewhere")
    with pytest.raises(tw.RunError, match=r"pairs4\.2-of-4\.safetensors is missing"):
        tw.Directions.load(folder / "pairs4.safetensors")


def test_a_training_is_recorded_once_and_analysed_by_all(ran: Ran) -> None:
    (alone,) = ran(1, "recorded")[1]
    assert alone["rows"] == 30
    for found in ran(2, "recorded")[1]:
        assert found["verdict"] == alone["verdict"]
        for name in ("rows", "weights", "values", "held_out", "robustness", "kept"):
            assert np.allclose(found[name], alone[name], rtol=1e-5, atol=1e-9), name


@pytest.mark.parametrize("count", [2, FOUR])
def test_the_trainings_of_a_trial_are_spread_over_ranks(ran: Ran, count: int) -> None:
    (alone,) = ran(1, "tried")[1]
    every = ran(count, "tried")[1]
    for found in every:
        assert found["special"] == alone["special"] == [True, False]
        assert np.allclose(found["leads"], alone["leads"], rtol=1e-4, atol=1e-6)
        assert np.allclose(found["curves"], alone["curves"], rtol=1e-5)
        assert np.allclose(found["factors"], alone["factors"], rtol=1e-4)
        assert found["hash"] == alone["hash"]
        assert found["cells"] == alone["cells"]
        assert found["again"] == [alone["cells"], 0]  # what was run is kept and read by all
        assert found["trained"] < 1.5 * alone["trained"] / count
    assert sum(found["trained"] for found in every) == alone["trained"] == alone["cells"]


@pytest.mark.parametrize("count", [2, FOUR])
def test_a_sharded_model_gives_the_numbers_of_a_whole_one(ran: Ran, count: int) -> None:
    (alone,) = ran(1, "sharded")[1]
    size = 9 * 8 + 4 * 10
    folder, every = ran(count, "sharded")
    assert sum(found["held"] for found in every) == size
    assert max(found["held"] for found in every) < size
    for found in every:
        assert found["about"] == alone["about"]
        assert found["certificate"] == "complete"
        assert found["depths"] == alone["depths"]
        assert found["error"] < 1e-5
        assert found["gradient_was_kept"]
        assert found["loss"] == pytest.approx(alone["loss"])
        assert np.allclose(found["gradient"], alone["gradient"])
        scale = float(np.linalg.norm(alone["hessian"]))
        assert float(np.linalg.norm(np.subtract(found["hessian"], alone["hessian"]))) < 1e-5 * scale
        assert np.allclose(found["values"], alone["values"], rtol=1e-5)
        assert np.allclose(found["vectors"], alone["vectors"], atol=1e-3)
        assert np.allclose(found["layers"], alone["layers"], atol=1e-3)
        foretold = passing(size, itemsize=8, outermost=4 * 10)
        for name, sent in found["sent_by_a_gradient"].items():  # rows are filled up where ranks have fewer
            assert found["passes"] * foretold[name] <= sent <= 1.4 * found["passes"] * foretold[name]
        assert "reduce_scatter" not in found["calls"]  # no vector is put together while it is searched
        assert "all_gather" not in found["calls"]
        assert found["trace"] == pytest.approx(alone["diagonal"], rel=0.05)
        value, error = found["layer_trace"]
        assert error < 0.1 * value
        assert abs(value - alone["layer_trace"][0]) < 4 * error
        if count < 4:
            assert found["diagonal"] == pytest.approx(alone["diagonal"], rel=1e-5)
            assert found["density"] == pytest.approx(alone["values"][0], rel=0.01)
        assert np.allclose(found["block"], alone["block"], rtol=1e-4, atol=1e-6)
        for mine, whole in zip(found["spectra"], alone["spectra"], strict=True):
            assert mine[0] == whole[0]
            assert np.allclose(mine[1:], whole[1:], rtol=1e-5)
    opened = tw.Directions.load(folder / f"sharded{count}.safetensors")
    assert np.allclose(opened.vectors.abs(), every[0]["vectors"])


@pytest.mark.parametrize("count", [2, FOUR])
def test_what_a_sharded_model_s_training_says_is_told_from_sums_over_its_parts(ran: Ran, count: int) -> None:
    (alone,) = ran(1, "sharded")[1]
    folder, every = ran(count, "sharded")
    for found in every:
        assert np.allclose(found["gram"], alone["gram"], rtol=1e-9)
        assert found["sent_by_gram"]["all_reduce"] == 8 * 84 + 2 * 8 * 84**2  # which are finite; two layers' matrices
        assert "all_gather" not in found["sent_by_gram"]
        for name, value in alone["movement"].items():
            loose = 1e-2 if name == "overlap" else 1e-6  # the eigenpairs are those of differences
            assert np.allclose(found["movement"][name], value, rtol=loose, atol=1e-9), name
        gram, error, rows = (np.array(one) for one in found["sketched"])
        assert rows == 60
        off = np.abs(gram - np.array(alone["gram"])[:60, :60]) / error
        assert 0.2 < np.sqrt((off**2).mean()) < 1.6  # in units of its own standard error
    opened = tw.Directions.load(folder / f"components{count}.safetensors")
    assert np.allclose(opened.vectors.abs(), alone["movement"]["vectors"], atol=1e-9)


@pytest.mark.parametrize("count", [2, FOUR])
def test_a_sharded_training_is_recorded_in_parts_and_merged(ran: Ran, count: int, tmp_path: Path) -> None:
    folder, _ = ran(count, "sharded")
    ran(1, "sharded")
    whole = tw.open_run(folder / "shards1").trajectory
    parts = sorted((folder / f"shards{count}").iterdir())
    assert [part.name for part in parts] == [f"part-{rank}-of-{count}" for rank in range(count)]
    with pytest.raises(tw.RunError, match="recorded in parts by several ranks; put them together with: thalweg merge"):
        tw.open_run(folder / f"shards{count}")
    found = merge_parts(folder / f"shards{count}", tmp_path / "run")
    merged = tw.open_run(tmp_path / "run").trajectory
    assert found["rows"] == len(merged) == 21  # what every part has
    assert found["left_out"] == [4 if rank != 1 else 0 for rank in range(count)]
    assert merged.space.names == whole.space.names
    assert np.allclose(merged.weights(20), whole.weights(20), atol=1e-12)
    assert np.allclose(merged.updates(0, 21), whole.updates(0, 21), atol=1e-12)
    assert np.allclose(merged.gram(), whole.gram(window=(0, 21)), rtol=1e-9)
    assert torch.equal(merged.learning_rates, whole.learning_rates[:21])
    assert set(merged.scalars) == {"loss"}
    with pytest.raises(tw.RunError, match="exists already"):
        merge_parts(folder / f"shards{count}", tmp_path / "run")
    (tmp_path / "some").mkdir()
    for part in parts[1:]:
        shutil.copytree(part, tmp_path / "some" / part.name)
    with pytest.raises(tw.RunError, match=f"does not hold one whole run: part-0-of-{count}"):
        merge_parts(tmp_path / "some", tmp_path / "other")
    shutil.copytree(folder / f"long{count}" / parts[0].name, tmp_path / "some" / parts[0].name)
    with pytest.raises(tw.RunError, match=f"part-1-of-{count} in .* belongs to another recording"):
        merge_parts(tmp_path / "some", tmp_path / "other")
    with pytest.raises(tw.RunError, match="holds no parts of a run"):
        merge_parts(tmp_path / "run", tmp_path / "other")


def test_a_rank_without_a_batch_counts_nothing(ran: Ran) -> None:
    (alone,) = ran(1, "few")[1]
    for found in ran(2, "few")[1]:
        assert found["loss"] == pytest.approx(alone["loss"])
        assert np.allclose(found["hessian"], alone["hessian"])
        assert found["about"] == alone["about"] | {"ranks": 2}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("apart", "the fingerprint of the weights differs between ranks"),
        ("failing", "the second rank's loss gave up"),
        ("killed", "Signal 9 (SIGKILL)"),
        ("hanging", "rank 0 waited for all ranks, and another did not come within 2 s"),
    ],
)
def test_a_failing_rank_ends_the_job_with_its_own_words(part: str, words: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = job(2, part, tmp_path, timeout=60, **({"THALWEG_RANKS_TIMEOUT": "2"} if part == "hanging" else {}))
    assert done.returncode != 0
    assert words in done.stderr
    assert time.monotonic() - begun < 60
    if part in ("failing", "killed"):
        assert len(list(tmp_path.glob("begun*"))) == 2
    if part == "killed":  # what was finished of a recording is whole
        found = merge_parts(tmp_path / "parts", tmp_path / "run")
        assert found["rows"] >= 24
        assert len(tw.open_run(tmp_path / "run").trajectory.gram()) == found["rows"]
    if part == "hanging":
        assert [path.read_text() for path in tmp_path.glob("patient*")] == ["here here"] * 2
    assert not list(tmp_path.glob(f"{part}*.json"))


def agrees(ran: Ran, folder: Path, count: int) -> None:
    """Whether a job's numbers are those of one process on a processor."""
    for part, names, tolerance in (
        ("same", ("loss", "gradient", "hessian", "values", "layers", "trace", "spectra"), 1e-6),
        ("sharded", ("loss", "gradient", "values", "gram"), 1e-5),
    ):
        (alone,) = ran(1, part)[1]
        for found in results(folder, part, count):
            for name in names:
                assert np.allclose(found[name], alone[name], rtol=tolerance, atol=1e-9), name


def test_one_process_can_go_the_ways_of_several(ran: Ran, tmp_path: Path) -> None:
    done = job(1, "same,sharded", tmp_path, timeout=200, FORCED=str(29900 + os.getpid() % 90))
    assert done.returncode == 0, done.stderr[-3000:]
    agrees(ran, tmp_path, 1)
    (found,) = results(tmp_path, "same", 1)
    assert found["sent"]["all_reduce"] == 8 * (9 * 8 + 4 * 10)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="no GPU was found: products there and NCCL were not tried")
def test_a_gpu_gives_the_numbers_of_a_processor(ran: Ran, tmp_path: Path) -> None:
    for name, forced in (("plain", {}), ("nccl", {"FORCED": str(29900 + os.getpid() % 90)})):
        (tmp_path / name).mkdir()
        done = job(1, "same,sharded", tmp_path / name, timeout=200, ON_GPU="1", **forced)
        assert done.returncode == 0, done.stderr[-3000:]
        agrees(ran, tmp_path / name, 1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs: NCCL between them was not tried")
def test_two_gpus_give_the_numbers_of_a_processor(ran: Ran, tmp_path: Path) -> None:
    done = job(2, "same,sharded", tmp_path, timeout=200, ON_GPU="1")
    assert done.returncode == 0, done.stderr[-3000:]
    agrees(ran, tmp_path, 2)


def test_a_command_that_cannot_be_shared_says_so(tmp_path: Path) -> None:
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "RANK": "1"}
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "run")], env=told)
    assert isinstance(done.exception, tw.InputError)
    assert "thalweg demo works in one process, and torchrun started 2; start it without torchrun" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_mixture_of_shared_and_own_batches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Ranks(3, 0)
    monkeypatch.setattr(together, "gathered", lambda value: [value, 7, 7])
    with pytest.raises(tw.InputError, match="rank 1 was given the same batches as another rank"):
        own_part(data(), surveyed(data(), lambda batch: 1.0), together)
    monkeypatch.setattr(together, "gathered", lambda value: [value, 7, 8])
    batches = data()
    assert own_part(batches, surveyed(batches, lambda batch: 1.0), together) is batches


def test_a_plan_is_the_sum_of_its_parts_and_refuses_nonsense() -> None:
    rows = list(plan_ranks(Net(7e9), (8, 16, 64), gpu=Gpu(link=1e10)))
    assert [row["ranks"] for row in rows] == [8, 16, 64]
    for row in rows:
        n = row["ranks"]
        assert row["basis_gib"] == pytest.approx(61 * 2 * 7e9 / n / 2**30)
        rest = (26 * 4 * 7e9 / n - 12 * 4 * 7e9 / n + 2 * 4 * 7e9 / 32) / 2**30  # 4 of weights and gradients, 10 pairs
        assert row["memory_gib"] == pytest.approx(row["basis_gib"] + row["activations_gib"] + rest)
        assert row["sending_seconds"] == pytest.approx(row["sent_gib"] * 2**30 / 1e10)
        assert row["product_seconds"] > row["sending_seconds"]
        assert row["hours"] == pytest.approx(60 * row["product_seconds"] / 3600)
    assert [row["fits"] for row in rows] == [False, False, True]
    assert Net(6.7e9, 32).stream == pytest.approx(4177, abs=1)
    with pytest.raises(tw.InputError, match="ranks=0 of a plan; give a positive number"):
        plan_ranks(Net(7e9), ())
    with pytest.raises(tw.InputError, match="parameters=-1 of a plan"):
        plan_ranks(Net(-1.0))


def test_one_process_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks() is ALONE
    vector = torch.arange(5.0)
    assert ALONE.sum(vector) is vector
    assert Layout.dealt(5, ALONE).whole(vector) is ALONE.scattered(vector) is vector
    assert ALONE.gathered("x") == ["x"]
    assert not ALONE.calls
    assert Layout.dealt(7, Ranks(3)).every == ((slice(0, 3),), (slice(3, 6),), (slice(6, 7),))
    assert Layout.dealt(5, Ranks(4)).widths == [2, 2, 1, 0]
    rows = torch.arange(14.0).view(2, 7)
    uneven = [Layout(7, Ranks(2, rank), ((slice(0, 2), slice(5, 6)), (slice(2, 5), slice(6, 7)))) for rank in (0, 1)]
    assert [layout.width for layout in uneven] == [3, 4]
    assert torch.equal(uneven[0].put([layout.take(rows) for layout in uneven]), rows)
    assert first_rank()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not first_rank()
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert ranks() is ALONE  # a job of another kind, such as a scheduler's that sets the same names
    assert len(data()) == len(SIZES)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for nonsense in ("soon", "0", "inf"):
        monkeypatch.setenv("THALWEG_RANKS_TIMEOUT", nonsense)
        with pytest.raises(tw.InputError, match=f"THALWEG_RANKS_TIMEOUT='{nonsense}': give seconds"):
            ranks()
