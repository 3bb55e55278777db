"""What a sweep has found: a table, the best point, pictures."""

import io
import math
import textwrap
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from machinery.files import replacing, shown, whole_lines
from machinery.telling import printable
from tools.history.tables import labels
from tools.sweeping.drawing import draw
from tools.sweeping.point import is_minimized, point_name, watched_name
from tools.sweeping.spec import decoded
from tools.sweeping.values import deviation_of, value_of

#: Letters of an error that the table of a file has room for, and that of a terminal.
_LONGEST_ERROR, _SHOWN_ERROR = 150, 30


def report(study: optuna.Study, folder: Path, monitor: str) -> str:
    """The table of points and the best, as text; writes `points.csv` and pictures to `folder`."""
    table = as_table(study, folder, monitor)
    if table.empty:
        return "no points"
    with replacing(folder / "points.csv", "w") as file:
        table.to_csv(file, index=False)
    lines = [_printed(table), f"wrote {shown(folder / 'points.csv')}"]
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if complete:
        lines += draw(study, folder, monitor)
        lines.append(_best(study, folder, monitor))
    return printable("\n".join(lines))


def _best(study: optuna.Study, folder: Path, monitor: str) -> str:
    """The line that names the best point."""
    best = study.best_trial
    line = f"best: point {best.number}, {watched_name(monitor)} {best.value:.5g}"
    deviation = deviation_of(best)
    if not math.isnan(deviation):
        line += f" ± {deviation:.2g} ({len(best.user_attrs['values'])} seeds)"
    run = _of_point(folder / "models", best.number)
    if run is None:  # it is on another disk
        return line
    return f"{line}: {shown(run)}"


def _of_point(folder: Path, point: int) -> Path | None:
    """What a point has in the folder of the models, or of the logs, if it is there."""
    return next(folder.glob(f"*/{point_name(point)}"), None)


def _printed(table: pd.DataFrame) -> str:
    """The table for a terminal: keys of the config by their short names, errors cut."""
    shorter = table.rename(columns=labels([name for name in table if "." in name]))
    if "error" in shorter:
        shorter["error"] = [textwrap.shorten(text, _SHOWN_ERROR) for text in shorter["error"]]
    text: str = shorter.to_string(index=False, na_rep="", float_format="{:.5g}".format)
    return text


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
    error = ""
    if trial.state != TrialState.COMPLETE:
        error = str(trial.user_attrs.get("error", ""))
    row: dict[str, Any] = {
        "point": trial.number,
        "state": trial.state.name.lower(),
        watched_name(monitor): value_of(trial, monitor),
    }
    if "values" in trial.user_attrs:
        row["deviation"] = deviation_of(trial)
        row["seeds"] = len(trial.user_attrs["values"])
    return {
        **row,
        **{key: decoded(choice) for key, choice in trial.params.items()},
        "seconds": round(_seconds(folder, trial.number), 1),
        "error": error[:_LONGEST_ERROR],
    }


def _seconds(folder: Path, point: int) -> float:
    """How long a point was trained, with all its seeds; NaN if nobody knows."""
    found = math.nan
    name = point_name(point)
    for log in [*folder.glob(f"log/*/{name}"), *folder.glob(f"log/*/{name}-seed*")]:
        try:
            lines = whole_lines(log / "metrics.csv")
            seconds = float(pd.read_csv(io.StringIO("".join(lines)))["seconds"].sum())
        except (OSError, ValueError, KeyError):
            continue
        found = seconds if math.isnan(found) else found + seconds
    return found
