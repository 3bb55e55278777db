"""What the points of a sweep have reached."""

import math
import statistics

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from tools.sweeping.point import is_minimized


def value_of(trial: FrozenTrial, monitor: str) -> float:
    """The value of a point, the one that was printed when it ended; NaN if it has none."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    noted = trial.user_attrs.get("value")
    if isinstance(noted, float):
        return noted
    return _best_so_far(trial, monitor)


def deviation_of(trial: FrozenTrial) -> float:
    """The standard deviation over the seeds of a point; NaN if there are not several."""
    values = trial.user_attrs.get("values", [])
    if len(values) < 2:
        return math.nan
    return statistics.stdev(values)


def _best_so_far(trial: FrozenTrial, monitor: str) -> float:
    """The best of a point's epochs; NaN if it has none."""
    epochs = pd.Series(trial.intermediate_values, dtype=float)
    if is_minimized(monitor):
        return float(epochs.min())
    return float(epochs.max())
