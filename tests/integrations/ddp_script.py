"""A training on two processes of this machine, which `test_lightning` starts: `python -m ... RUN NOTES`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
from safetensors.torch import save_file

from tests.integrations.test_lightning import Net, loader
from thalweg.integrations.lightning import ThalwegCallback


def main() -> None:
    warnings.simplefilter("ignore")
    run, notes = (Path(argument) for argument in sys.argv[1:])
    net = Net()
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        callbacks=[ThalwegCallback(run)],
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        **quiet,
    )
    trainer.fit(net, loader(), loader())
    save_file(
        {str(n): weights for n, weights in enumerate(net.noted.after)}, notes / f"{trainer.global_rank}.safetensors"
    )


if __name__ == "__main__":
    main()
