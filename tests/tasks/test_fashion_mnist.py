"""The two tasks on Fashion-MNIST, and reading its files; what needs the real data is skipped where that is missing."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch

from thalweg.errors import InputError
from thalweg.tasks.digits import train
from thalweg.tasks.fashion_mnist import VARIABLE, draw, fashion_mnist_task, folder, read
from thalweg.tasks.resnet import ResNet, resnet_task

needs_data = pytest.mark.skipif(
    not (folder() / "train-images-idx3-ubyte.gz").is_file(),
    reason=f"Fashion-MNIST is not in {folder()}; apt-get install dataset-fashion-mnist, or set {VARIABLE}=folder",
)


def write_part(home: Path, part: str, samples: int, packed: bool = True) -> None:
    """A small data set in the files' format: picture n is full of n, its label is n modulo 10."""
    pictures = struct.pack(">4B3i", 0, 0, 8, 3, samples, 28, 28) + b"".join(bytes([n]) * 784 for n in range(samples))
    labels = struct.pack(">4Bi", 0, 0, 8, 1, samples) + bytes(n % 10 for n in range(samples))
    for name, raw in ((f"{part}-images-idx3-ubyte", pictures), (f"{part}-labels-idx1-ubyte", labels)):
        (home / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_part(tmp_path, "train", 30)
    write_part(tmp_path, "t10k", 12)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("packed", [True, False])
def test_files_are_read_compressed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    write_part(tmp_path, "train", 13, packed)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    images, labels = read("train")
    assert images.shape == (13, 28, 28)
    assert images[7].unique().tolist() == [7]
    assert labels.tolist() == [n % 10 for n in range(13)]


def test_pictures_stay_with_their_labels(small: Path) -> None:
    pictures, labels = draw("train", 20, seed=3)
    level = (pictures[:, 0, 0, 0] * 0.3530 + 0.2860) * 255
    assert torch.equal(level.round().long() % 10, labels)
    assert len(level.round().unique()) == 20
    assert not torch.equal(labels, draw("train", 20, seed=4)[1])


def test_missing_files_say_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=rf"apt-get install dataset-fashion-mnist, or set {VARIABLE}=folder"):
        fashion_mnist_task()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: gzip.compress(raw)[:-20], "cannot be read"),
        (lambda raw: gzip.compress(raw[:-1]), "no idx file"),
        (lambda raw: gzip.compress(b"\1" + raw[1:]), "no idx file"),
        (lambda raw: gzip.compress(b""), "no idx file"),
    ],
)
def test_damaged_files_are_named(small: Path, damage: object, message: str) -> None:
    path = small / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))  # type: ignore[operator]
    with pytest.raises(InputError, match=rf"train-images-idx3-ubyte\.gz .*{message}"):
        read("train")


def test_labels_of_another_count(small: Path) -> None:
    write_part(small, "t10k", 5)
    (small / "t10k-labels-idx1-ubyte.gz").replace(small / "train-labels-idx1-ubyte.gz")
    with pytest.raises(InputError, match="30 pictures and 5 labels"):
        read("train")


def test_more_than_there_is(small: Path) -> None:
    with pytest.raises(InputError, match=r"samples=31: .* has 30"):
        draw("train", 31, seed=0)
    with pytest.raises(InputError, match="batch=0"):
        fashion_mnist_task(samples=8, held_out=4, batch=0)


def test_tasks_are_whole_and_leave_the_global_generator_alone(small: Path) -> None:
    state = torch.get_rng_state()
    for task in (
        fashion_mnist_task(hidden=(4,), samples=10, held_out=4, batch=4),
        resnet_task(depth=1, widths=(2, 4), samples=10, held_out=4, batch=4),
    ):
        assert [len(labels) for _, labels in task.train] == [4, 4, 2]
        assert task.problem().loss() > 0
        assert task.problem(held_out=True).loss() > 0
        assert task.evaluate is not None
        assert 0 <= task.evaluate(task.model)["accuracy"] <= 1
    assert torch.equal(torch.get_rng_state(), state)


def test_the_networks_have_the_stated_sizes(small: Path) -> None:
    assert fashion_mnist_task(samples=4, held_out=4).problem().space.size == 269_322
    assert sum(p.numel() for p in ResNet().parameters()) == 269_434
    assert sum(p.numel() for p in ResNet(channels=3).parameters()) == 269_722  # He et al. state 0.27M
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in ResNet().modules()) == 19


@needs_data
def test_the_real_data_is_learnt() -> None:
    task = fashion_mnist_task(samples=1024, held_out=256)
    assert task.optimizer is not None
    assert task.evaluate is not None
    train(task, task.optimizer(task.model), epochs=4)
    assert task.evaluate(task.model)["accuracy"] > 0.7
    again = fashion_mnist_task(samples=1024, held_out=256)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(task.train, again.train, strict=True))


@needs_data
def test_the_real_data_is_centred() -> None:
    images, labels = read("train")
    assert images.shape == (60_000, 28, 28)
    assert float(images.float().mean() / 255) == pytest.approx(0.2860, abs=1e-4)
    assert labels.bincount().tolist() == [6000] * 10
