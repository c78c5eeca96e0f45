"""The public names; each is imported from its home when it is first used."""

from .analysis.alignment import Alignment, weight_alignment
from .analysis.approximation import hessian_from
from .analysis.drift import Drift, drift, drift_scan
from .analysis.held_out import HeldOut, held_out_spectrum
from .analysis.layer_ranking import rank_layers
from .analysis.layers import layer_spectra
from .analysis.noise import robustness
from .analysis.nulls import Null, holm
from .analysis.overlap import Overlap, overlap
from .analysis.ranking import rank_directions
from .analysis.sampling import Halves, halves
from .analysis.sharpness import Sharpness, relative_sharpness
from .analysis.singular import singular_curvature
from .analysis.tracking import track_curvature
from .checkup.look import doctor
from .checkup.result import Checkup
from .directions import Directions, layer_matched_directions, random_directions
from .errors import (
    InputError,
    MissingExtraError,
    NoSecondDerivativeError,
    NotDeterministicError,
    RankError,
    RunError,
    StaleOperatorError,
    ThalwegError,
)
from .losses import Loss
from .measurement.base import Settings
from .operators.base import FunctionOperator, Operator, matrix_operator
from .operators.differences import FiniteDifferenceHessian, HessianCheck
from .problem import Problem
from .protect.guard import Guard, guard
from .protect.knowledge import Knowledge
from .protect.price import Price, guard_price
from .protect.remember import remember
from .protect.transfer import Transfer, transfer
from .recording import Recorder, Trajectory, open_run, watch
from .rows import Rows
from .sharded import ShardedProblem
from .show.figures import figure
from .show.report import report
from .solvers.density import Average, SpectralDensity, spectral_density
from .solvers.gram import gradient_pca, update_pca, weight_path, weight_pca
from .solvers.lanczos import eigenpairs
from .solvers.svd import weight_svd
from .solvers.trace import TraceEstimate, trace
from .space import ParameterSpace
from .tables import Table
from .task import Task
from .trials.arms import Way, arm
from .trials.compression import compression, compression_orders
from .trials.lines import line_steps
from .trials.run import TrialResult, load_trial, trial
from .version import __version__
from .workflow import analyse

__all__ = [
    "Alignment",
    "Average",
    "Checkup",
    "Directions",
    "Drift",
    "FiniteDifferenceHessian",
    "FunctionOperator",
    "Guard",
    "Halves",
    "HeldOut",
    "HessianCheck",
    "InputError",
    "Knowledge",
    "Loss",
    "MissingExtraError",
    "NoSecondDerivativeError",
    "NotDeterministicError",
    "Null",
    "Operator",
    "Overlap",
    "ParameterSpace",
    "Price",
    "Problem",
    "RankError",
    "Recorder",
    "Rows",
    "RunError",
    "Settings",
    "ShardedProblem",
    "Sharpness",
    "SpectralDensity",
    "StaleOperatorError",
    "Table",
    "Task",
    "ThalwegError",
    "TraceEstimate",
    "Trajectory",
    "Transfer",
    "TrialResult",
    "Way",
    "__version__",
    "analyse",
    "arm",
    "compression",
    "compression_orders",
    "doctor",
    "drift",
    "drift_scan",
    "eigenpairs",
    "figure",
    "gradient_pca",
    "guard",
    "guard_price",
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
    "remember",
    "report",
    "robustness",
    "singular_curvature",
    "spectral_density",
    "trace",
    "track_curvature",
    "transfer",
    "trial",
    "update_pca",
    "watch",
    "weight_alignment",
    "weight_path",
    "weight_pca",
    "weight_svd",
]
