"""Recording a training and reading it back.

`watch` records through the optimizer's post-step hook, `open_run` opens what was recorded; between the two stands
the folder of segments that `store` describes.
"""

from thalweg.recording.opening import open_run
from thalweg.recording.span import TrajectoryRows
from thalweg.recording.trajectory import Trajectory
from thalweg.recording.watch import Recorder, watch

__all__ = ["Recorder", "Trajectory", "TrajectoryRows", "open_run", "watch"]
