"""What a sweep has found: a table, the best point, pictures."""

import math
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from machinery.files import replacing, shown
from machinery.telling import printable
from tools.sweeping.point import is_minimized, point_name, watched_name
from tools.sweeping.spec import decoded

#: Letters of an error that the table has room for.
_LONGEST_ERROR = 150


def report(study: optuna.Study, folder: Path, monitor: str) -> str:
    """The table of points and the best, as text; writes `points.csv` and pictures to `folder`."""
    table = as_table(study, folder, monitor)
    if table.empty:
        return "no points"
    with replacing(folder / "points.csv", "w") as file:
        table.to_csv(file, index=False)
    lines = [
        table.to_string(index=False, na_rep="", float_format="{:.5g}".format),
        f"wrote {shown(folder / 'points.csv')}",
    ]
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if complete:
        lines += _draw(study, folder, len(complete))
        lines.append(_best(study, folder, monitor))
    return printable("\n".join(lines))


def _best(study: optuna.Study, folder: Path, monitor: str) -> str:
    """The line that names the best point."""
    best = study.best_trial
    line = f"best: point {best.number}, {watched_name(monitor)} {best.value:.5g}"
    run = _of_point(folder / "models", best.number)
    if run is None:  # it is on another disk
        return line
    return f"{line}: {shown(run)}"


def _of_point(folder: Path, point: int) -> Path | None:
    """What a point has in the folder of the models, or of the logs, if it is there."""
    return next(folder.glob(f"*/{point_name(point)}"), None)


def as_table(study: optuna.Study, folder: Path, monitor: str) -> pd.DataFrame:
    """A line for each point, the best first."""
    table = pd.DataFrame(
        [_row(trial, folder, monitor) for trial in study.get_trials(deepcopy=False)]
    )
    if table.empty:
        return table
    order = ["state", watched_name(monitor)]
    table = table.sort_values(order, ascending=[True, is_minimized(monitor)], kind="stable")
    if not table["error"].any():
        return table.drop(columns="error")
    return table


def _row(trial: FrozenTrial, folder: Path, monitor: str) -> dict[str, Any]:
    """The values of a point by the table's columns."""
    value = trial.value
    if value is None:
        value = _best_so_far(trial, monitor)
    error = ""
    if trial.state != TrialState.COMPLETE:
        error = str(trial.user_attrs.get("error", ""))
    return {
        "point": trial.number,
        "state": trial.state.name.lower(),
        watched_name(monitor): value,
        **{key: decoded(choice) for key, choice in trial.params.items()},
        "seconds": round(_seconds(folder, trial.number), 1),
        "error": error[:_LONGEST_ERROR],
    }


def _best_so_far(trial: FrozenTrial, monitor: str) -> float:
    """The best of a point's epochs; NaN if it has none."""
    epochs = pd.Series(trial.intermediate_values, dtype=float)
    if is_minimized(monitor):
        return float(epochs.min())
    return float(epochs.max())


def _seconds(folder: Path, point: int) -> float:
    """How long a point was trained; NaN if nobody knows."""
    log = _of_point(folder / "log", point)
    if log is None:
        return math.nan
    try:
        return float(pd.read_csv(log / "metrics.csv")["seconds"].sum())
    except (OSError, ValueError, KeyError):
        return math.nan


def _draw(study: optuna.Study, folder: Path, complete: int) -> list[str]:
    """Draw the values as they came, and against each setting; a line for each picture."""
    import optuna.visualization.matplotlib as pictures

    drawings: dict[str, Any] = {"history": pictures.plot_optimization_history}
    if complete > 1:
        drawings["settings"] = pictures.plot_slice
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are experimental
        for name, draw in drawings.items():
            draw(study)
            figure = plt.gcf()
            with replacing(folder / f"{name}.png") as file:
                figure.savefig(file, dpi=110, bbox_inches="tight", format="png")
            plt.close(figure)
            lines.append(f"wrote {shown(folder / f'{name}.png')}")
    return lines
