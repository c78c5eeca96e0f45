"""Finds the parameter directions of a neural network that matter, says how sure that is, and lets people act on it.

```python
import thalweg as tw

recorder = tw.watch(model, optimizer, "runs/a")     # one line in a training script
...
problem = tw.Problem(model, loss, data)
pairs = tw.eigenpairs(problem.hessian(), k=10)
tw.analyse("runs/a", problem)
tw.report("runs/a")
```
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING

from thalweg.analysis.alignment import Alignment, weight_alignment
from thalweg.analysis.approximation import hessian_from
from thalweg.analysis.drift import Drift, drift, drift_scan
from thalweg.analysis.held_out import HeldOut, held_out_spectrum
from thalweg.analysis.layer_ranking import rank_layers
from thalweg.analysis.layers import layer_spectra
from thalweg.analysis.noise import robustness
from thalweg.analysis.nulls import Null, holm
from thalweg.analysis.overlap import Overlap, overlap
from thalweg.analysis.ranking import rank_directions
from thalweg.analysis.sampling import Halves, halves
from thalweg.analysis.sharpness import Sharpness, relative_sharpness
from thalweg.analysis.singular import singular_curvature
from thalweg.analysis.tracking import track_curvature
from thalweg.directions import Directions, Rows, layer_matched_directions, random_directions
from thalweg.errors import (
    InputError,
    MissingExtraError,
    NoSecondDerivativeError,
    NotDeterministicError,
    RunError,
    StaleOperatorError,
    ThalwegError,
)
from thalweg.losses import Loss
from thalweg.measurement.base import Settings
from thalweg.operators.base import FunctionOperator, Operator, matrix_operator
from thalweg.operators.differences import FiniteDifferenceHessian, HessianCheck
from thalweg.problem import Problem
from thalweg.recording import Recorder, Trajectory, open_run, watch
from thalweg.solvers.density import Average, SpectralDensity, spectral_density
from thalweg.solvers.gram import gradient_pca, update_pca, weight_path, weight_pca
from thalweg.solvers.lanczos import eigenpairs
from thalweg.solvers.svd import weight_svd
from thalweg.solvers.trace import TraceEstimate, trace
from thalweg.space import ParameterSpace
from thalweg.tables import Table
from thalweg.task import Task
from thalweg.trials.arms import Way, arm
from thalweg.trials.compression import compression, compression_orders
from thalweg.trials.lines import line_steps
from thalweg.trials.run import TrialResult, load_trial, trial
from thalweg.version import __version__
from thalweg.workflow import analyse

if TYPE_CHECKING:
    from collections.abc import Sequence


def report(run_folder: str | _Path, languages: "Sequence[str]" = ("en", "ja")) -> list[_Path]:
    """Write the report of an analysed run: one self-contained HTML file for each language.

    Args:
        run_folder: the run.
        languages: "en" and "ja".

    Returns:
        The files written, `report.en.html` and so on, in the run folder.

    Raises:
        RunError: if the folder is no run, or has not been analysed.
        InputError: if there is no such language.
    """
    from thalweg.show.report import report as write  # here, since it brings matplotlib and jinja2

    return write(run_folder, languages)


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "Alignment",
    "Average",
    "Directions",
    "Drift",
    "FiniteDifferenceHessian",
    "FunctionOperator",
    "Halves",
    "HeldOut",
    "HessianCheck",
    "InputError",
    "Loss",
    "MissingExtraError",
    "NoSecondDerivativeError",
    "NotDeterministicError",
    "Null",
    "Operator",
    "Overlap",
    "ParameterSpace",
    "Problem",
    "Recorder",
    "Rows",
    "RunError",
    "Settings",
    "Sharpness",
    "SpectralDensity",
    "StaleOperatorError",
    "Table",
    "Task",
    "ThalwegError",
    "TraceEstimate",
    "Trajectory",
    "TrialResult",
    "Way",
    "__version__",
    "analyse",
    "arm",
    "compression",
    "compression_orders",
    "drift",
    "drift_scan",
    "eigenpairs",
    "gradient_pca",
    "halves",
    "held_out_spectrum",
    "hessian_from",
    "holm",
    "layer_matched_directions",
    "layer_spectra",
    "line_steps",
    "load_trial",
    "matrix_operator",
    "open_run",
    "overlap",
    "random_directions",
    "rank_directions",
    "rank_layers",
    "relative_sharpness",
    "report",
    "robustness",
    "singular_curvature",
    "spectral_density",
    "trace",
    "track_curvature",
    "trial",
    "update_pca",
    "watch",
    "weight_alignment",
    "weight_path",
    "weight_pca",
    "weight_svd",
]
