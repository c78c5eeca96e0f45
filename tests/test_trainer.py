"""Problems of HuggingFace trainers, against losses written out here in float64 from the rows of the data."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils.data import Dataset, IterableDataset

from tests.conftest import random_vector, relative_error, true_products
from tests.test_problem import assert_same, state_of, tiny_bert, tiny_gpt2
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.trainer import trainer_loss

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

Row = dict[str, Any]
LENGTHS = (3, 5, 4, 2, 6, 3, 5)


def classified_rows() -> list[Row]:
    """Sentences of unequal length with a class each, one of them not to be learned; and a column nobody takes."""
    generator = torch.Generator().manual_seed(1)
    rows = [
        {"input_ids": torch.randint(1, 9, (length,), generator=generator).tolist(), "labels": n % 3, "title": "x" * n}
        for n, length in enumerate(LENGTHS)
    ]
    rows[2]["labels"] = -100
    return rows


def text_rows() -> list[Row]:
    """Texts of which every token is to be predicted, the first of one prompt left out."""
    generator = torch.Generator().manual_seed(2)
    rows = []
    for length in LENGTHS:
        tokens = torch.randint(1, 8, (length,), generator=generator).tolist()
        rows.append({"input_ids": tokens, "labels": list(tokens)})
    rows[1]["labels"][:3] = [-100] * 3
    return rows


def pad(rows: list[Row]) -> dict[str, Tensor]:
    """A collator: rows padded to the longest, with a mask; labels of tokens padded with -100."""
    assert not any("title" in row for row in rows), "columns that the model does not take go first"
    longest = max(len(row["input_ids"]) for row in rows)

    def column(name: str, fill: int) -> Tensor:
        return torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])

    batch = {"input_ids": column("input_ids", 0)}
    batch["attention_mask"] = torch.tensor(
        [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    )
    tokens = isinstance(rows[0]["labels"], list)
    batch["labels"] = column("labels", -100) if tokens else torch.tensor([row["labels"] for row in rows])
    return batch


def make_trainer(
    folder: Path, model: nn.Module, rows: Any, kind: type | None = None, held_out: Any = None, **settings: Any
) -> Any:
    own = {name: settings.pop(name) for name in ("data_collator", "compute_loss_func") if name in settings}
    settings = {"per_device_eval_batch_size": 3, "use_cpu": True, "report_to": [], "disable_tqdm": True, **settings}
    arguments = transformers.TrainingArguments(str(folder), save_strategy="no", **settings)
    return (kind or transformers.Trainer)(
        model=model, args=arguments, train_dataset=rows, eval_dataset=held_out, **{"data_collator": pad, **own}
    )


def one_by_one(rows: list[Row], criterion: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Callable[..., Any]], Any]:
    """The mean over all labels that count, of rows that go through the model alone and without padding.

    `criterion(logits, labels)` gives the losses of single labels, for logits `(n, classes)`.
    """

    def total(call: Callable[..., Any]) -> Tensor:
        losses = []
        for row in rows:
            logits = call(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            labels = torch.tensor(row["labels"])
            if labels.ndim:
                logits, labels = logits[:-1], labels[1:]
            logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
            losses.append(criterion(logits[labels != -100], labels[labels != -100]))
        return torch.cat(losses).mean()

    return total


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, reduction="none")


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    logs = log_softmax(logits, dim=-1)
    return -0.8 * logs[range(len(labels)), labels] - 0.2 * logs.mean(dim=-1)


def doubled(logits: Tensor, labels: Tensor) -> Tensor:
    return 2 * plain(logits, labels) + logits.square().sum(dim=-1)


def assert_right(problem: Problem, model: nn.Module, total: Callable[..., Tensor], tolerance: float) -> None:
    probe = random_vector(problem.space.size, 1, 3)
    loss, gradient, products = true_products(model, total, probe)
    assert problem.loss() == pytest.approx(loss, rel=tolerance)
    assert relative_error(problem.gradient(), gradient) < tolerance
    assert relative_error(problem.hessian() @ probe, products) < tolerance


# -- against the rows themselves -------------------------------------------------------------------------------


def test_a_classifiers_trainer(tmp_path: Path) -> None:
    model, rows = tiny_bert(), classified_rows()
    problem = Problem.from_trainer(make_trainer(tmp_path, model, rows))
    assert problem.model is model
    assert problem.survey.samples == (3, 3, 1)
    assert problem.survey.weights == (2.0, 3.0, 1.0)
    assert_right(problem, model, one_by_one(rows, plain), 1e-9)
    by_samples = Problem.from_trainer(make_trainer(tmp_path, model, rows), weight=lambda batch: len(batch["labels"]))
    assert relative_error(by_samples.gradient(), problem.gradient()) > 1e-3


def test_a_language_models_trainer(tmp_path: Path) -> None:
    model, rows = tiny_gpt2(), text_rows()
    problem = Problem.from_trainer(make_trainer(tmp_path, model, rows))
    assert problem.survey.weights == (7.0, 8.0, 4.0)
    assert_right(problem, model, one_by_one(rows, plain), 1e-5)  # transformers computes this criterion in float32


@pytest.mark.parametrize(("make", "rows"), [(tiny_bert, classified_rows()), (tiny_gpt2, text_rows())])
def test_label_smoothing(tmp_path: Path, make: Callable[[], nn.Module], rows: list[Row]) -> None:
    model = make()
    trainer = make_trainer(tmp_path, model, rows, label_smoothing_factor=0.2)
    problem = Problem.from_trainer(trainer)
    assert_right(problem, model, one_by_one(rows, smoothed), 1e-5)  # half of transformers' smoother is in float32
    trainer_loss(trainer)(model, problem.data[0])
    assert "labels" in problem.data[0]  # the trainer takes them out of what it is given
    unsmoothed = Problem.from_trainer(make_trainer(tmp_path, model, rows))
    assert relative_error(unsmoothed.gradient(), problem.gradient()) > 1e-3


def penalised(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """A `compute_loss_func` for texts that only works with the number of labels."""
    logits, labels = outputs.logits[:, :-1], labels[:, 1:]
    kept = labels != -100
    return doubled(logits[kept], labels[kept]).sum() / num_items_in_batch


class Overriding(transformers.Trainer):
    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **known: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = penalised(outputs, labels, **known)
        return (loss, outputs) if return_outputs else loss


class Untold(transformers.Trainer):
    """Written before trainers told the number of labels."""

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False) -> Any:
        return penalised(
            model(input_ids=inputs["input_ids"]), inputs["labels"], (inputs["labels"][:, 1:] != -100).sum()
        )


@pytest.mark.parametrize("kind", [Overriding, Untold, None])
def test_a_loss_of_the_trainers_own(tmp_path: Path, kind: type | None) -> None:
    model, rows = tiny_gpt2(), text_rows()
    settings = {} if kind else {"compute_loss_func": penalised}
    trainer = make_trainer(tmp_path, model, rows, kind, label_smoothing_factor=0.2, **settings)
    problem = Problem.from_trainer(trainer)
    assert_right(problem, model, one_by_one(rows, doubled), 1e-9)
    trainer_loss(trainer)(model, problem.data[0])
    assert "labels" in problem.data[0]


class Returning(nn.Module):
    """A module that no one at HuggingFace wrote: a tuple, loss first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3).double()

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.layer(x)
        return cross_entropy(logits, labels), logits


def test_a_module_that_returns_a_tuple(tmp_path: Path) -> None:
    rows = [{"x": random_vector(2, n), "labels": n % 3} for n in range(5)]
    model = Returning()
    trainer = make_trainer(tmp_path, model, rows, data_collator=transformers.default_data_collator)
    inputs, labels = torch.stack([row["x"] for row in rows]), torch.tensor([row["labels"] for row in rows])
    expected = cross_entropy(model.layer(inputs), labels).item()
    assert Problem.from_trainer(trainer).loss() == pytest.approx(expected, rel=1e-12)


# -- which samples, and how they are frozen ----------------------------------------------------------------------


def titles(problem: Problem) -> list[int]:
    """The samples' labels, which number them."""
    return [int(label) for batch in problem.data for label in batch["labels"]]


def numbered(count: int) -> list[Row]:
    return [{"x": random_vector(2, n), "labels": n} for n in range(count)]


class Numbered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1).double()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layer(x)[:, 0] - labels / 50).square().mean()}


def numbered_trainer(folder: Path, rows: Any, **settings: Any) -> Any:
    settings = {"data_collator": transformers.default_data_collator, **settings}
    return make_trainer(folder, Numbered(), rows, **settings)


def test_samples_are_drawn_by_the_seed(tmp_path: Path) -> None:
    trainer = numbered_trainer(tmp_path, numbered(50), held_out=numbered(4))
    drawn = titles(Problem.from_trainer(trainer, 10))
    assert drawn == titles(Problem.from_trainer(trainer, 10, seed=0))
    assert drawn != titles(Problem.from_trainer(trainer, 10, seed=1))
    assert len(set(drawn)) == 10
    assert max(drawn) > 10
    assert titles(Problem.from_trainer(trainer, 10, seed=None)) == list(range(10))
    assert titles(Problem.from_trainer(trainer)) == list(range(50))
    assert titles(Problem.from_trainer(trainer, dataset="eval")) == [0, 1, 2, 3]


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Goes on for ever."""

    def __iter__(self) -> Iterator[Row]:
        n = 0
        while True:
            yield {"x": random_vector(2, n), "labels": n}
            n += 1


def test_a_stream_is_read_as_far_as_asked(tmp_path: Path) -> None:
    trainer = numbered_trainer(tmp_path, Stream(), max_steps=1)
    problem = Problem.from_trainer(trainer, 7)
    assert titles(problem) == list(range(7))
    assert problem.survey.samples == (3, 3, 1)


def test_one_of_several_evaluation_sets(tmp_path: Path) -> None:
    trainer = numbered_trainer(tmp_path, numbered(9), held_out={"near": numbered(4), "far": numbered(2)})
    assert titles(Problem.from_trainer(trainer, dataset="far")) == [0, 1]
    with pytest.raises(InputError, match=r"several evaluation sets; give one as dataset=, of near, far"):
        Problem.from_trainer(trainer, dataset="eval")
    with pytest.raises(InputError, match=r"dataset='test': the trainer has 'train', 'eval', 'near', 'far'"):
        Problem.from_trainer(trainer, dataset="test")


class Masking:
    """Draws from every generator there is, and from one of its own."""

    def __init__(self) -> None:
        self.own = np.random.default_rng(3)

    def __call__(self, rows: list[Row]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = transformers.default_data_collator(rows)
        draws = [float(torch.rand(())), float(np.random.rand()), random.random(), float(self.own.random())]
        batch["x"] = batch["x"] * torch.tensor(draws[:2]) + sum(draws[2:])
        return batch


class Augmenting(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Row:
        return {"x": torch.rand(2, dtype=torch.float64), "labels": index}


@pytest.mark.parametrize("rows", [numbered(7), Augmenting()], ids=["masks", "augmentation"])
def test_what_is_drawn_is_drawn_once(tmp_path: Path, rows: Any) -> None:
    collator = Masking()
    trainer = numbered_trainer(tmp_path, rows, data_collator=collator)
    before, own = state_of(trainer.model), copy.deepcopy(collator.own.bit_generator.state)
    problem = Problem.from_trainer(trainer)
    assert_same(before, state_of(trainer.model))
    assert collator.own.bit_generator.state == own
    assert problem.loss() == problem.loss()
    torch.rand(5)
    assert Problem.from_trainer(trainer).loss() == problem.loss()
    assert Problem.from_trainer(trainer, seed=1).loss() != problem.loss()


def test_batches_without_a_label_that_counts_are_left_out(tmp_path: Path) -> None:
    rows = classified_rows()
    for row in rows[3:6]:
        row["labels"] = -100
    model = tiny_bert()
    problem = Problem.from_trainer(make_trainer(tmp_path, model, rows))
    assert problem.survey.weights == (2.0, 1.0)
    assert_right(problem, model, one_by_one(rows, plain), 1e-9)
    for row in rows:
        row["labels"] = -100
    with pytest.raises(InputError, match=r"no label of the train samples counts \(all are -100\)"):
        Problem.from_trainer(make_trainer(tmp_path, model, rows))


# -- a trainer that has trained, and wrapped ---------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}])
def test_a_trainer_that_has_trained(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Mixed precision wraps the model's forward in autocast, and compilation wraps the model."""
    model, rows = tiny_bert(), classified_rows()
    trainer = make_trainer(tmp_path, model.float(), rows, max_steps=1, **settings)
    trainer.train()
    wrapped = model.forward
    problem = Problem.from_trainer(trainer)
    assert problem.model is model
    assert model.forward == wrapped
    wide = copy.deepcopy(model).double()
    vars(wide).pop("forward", None)
    assert_right(problem, wide, one_by_one(rows, plain), 1e-5)
    assert_right(problem.at(problem.weights()), wide, one_by_one(rows, plain), 1e-5)


def test_a_compiled_model_is_unwrapped(tmp_path: Path) -> None:
    model = Returning()
    compiled: Any = torch.compile(model, backend="aot_eager")
    settings = {"data_collator": transformers.default_data_collator, "remove_unused_columns": False}
    trainer = make_trainer(tmp_path, model, numbered(3), **settings)
    for wrapped in (compiled, nn.DataParallel(compiled), nn.DataParallel(model)):
        trainer.model = wrapped
        problem = Problem.from_trainer(trainer)
        assert problem.model is model
        assert problem.space.names == ("layer.weight", "layer.bias")


# -- what is refused ---------------------------------------------------------------------------------------------


def test_what_is_no_trainer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes a transformers.Trainer, and a Linear has no 'model'"):
        Problem.from_trainer(nn.Linear(1, 1))
    trainer = numbered_trainer(tmp_path, None)
    with pytest.raises(InputError, match=r"the trainer has no train_dataset; give it one"):
        Problem.from_trainer(trainer)
    with pytest.raises(InputError, match=r"the trainer has no eval_dataset"):
        Problem.from_trainer(trainer, dataset="eval")
    with pytest.raises(InputError, match=r"the trainer's train set holds no sample"):
        Problem.from_trainer(numbered_trainer(tmp_path, []))
    with pytest.raises(InputError, match=r"leaves nothing of a sample; .*remove_unused_columns=False"):
        Problem.from_trainer(numbered_trainer(tmp_path, [{"y": 1.0, "z": 2.0}]))
    for samples in (0, -1, 2.5, True):
        with pytest.raises(InputError, match=rf"samples={samples}: give a whole number of at least 1"):
            Problem.from_trainer(trainer, samples)  # type: ignore[arg-type]
    for seed in (-1, 2**32, "x"):
        with pytest.raises(InputError, match=rf"seed={seed!r}: give a whole number from 0 to"):
            Problem.from_trainer(trainer, seed=seed)  # type: ignore[arg-type]
    trainer.model = None
    with pytest.raises(InputError, match=r"the trainer's model is a NoneType, expected a torch module"):
        Problem.from_trainer(trainer)
