"""Three eigenpairs of a GPT-2: the real size in 16 GiB as a proof, a tiny one always, by the same code."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.models import gpt2

LIMIT = 16 * 2**30


def test_a_tiny_gpt2(capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    checked = gpt2.prove(
        transformers.GPT2Config(
            vocab_size=90, n_embd=16, n_layer=2, n_head=2, n_positions=24, bos_token_id=0, eos_token_id=0
        )
    )
    gpt2.hold(checked)
    printed = capsys.readouterr().out
    assert "parameters" in printed
    assert printed.count("by differences") == 2 * gpt2.PAIRS
    wrong = [
        replace(checked[1], value=1.01 * checked[1].value),
        replace(checked[1], residual=1.1 * checked[1].claimed + 2e-3),
    ]
    for pair in wrong:
        with pytest.raises(AssertionError):
            gpt2.hold([checked[0], pair, checked[2]])


@pytest.mark.prove
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux keeps them")
def test_three_pairs_of_a_model_of_gpt2_size_within_16_gib() -> None:
    pytest.importorskip("transformers")
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.gpt2"],
        cwd=Path(__file__).parents[2],
        # large blocks go back to the system when they are freed: the limit meets what is held, not a heap's high water
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
        stderr=subprocess.PIPE,  # what it prints is seen while it runs
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT)),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
