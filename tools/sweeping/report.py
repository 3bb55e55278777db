"""What a sweep has found: a table, the best point, pictures."""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import optuna
import pandas as pd
from optuna.trial import TrialState

from machinery.files import replacing, shown
from machinery.telling import printable
from tools.sweeping.spec import decoded


def report(study: optuna.Study, folder: Path, monitor: str) -> str:
    """Write `points.csv` and pictures to a sweep's folder; the table of points and the best, as text."""
    table = as_table(study, folder, monitor)
    if table.empty:
        return "no points"
    with replacing(folder / "points.csv", "w") as file:
        table.to_csv(file, index=False)
    lines = [
        table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.5g}"),
        f"wrote {shown(folder / 'points.csv')}",
    ]
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if complete:
        best = study.best_trial
        lines += _drawn(study, folder, len(complete))
        run = next((folder / "models").glob(f"*/point-{best.number:04}"), None)
        lines.append(f"best: point {best.number}, {monitor.split()[1]} {best.value:.5g}: {run and shown(run)}")
    return printable("\n".join(lines))


def as_table(study: optuna.Study, folder: Path, monitor: str) -> pd.DataFrame:
    """A line for each point, the best first."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        known = [value for value in trial.intermediate_values.values() if value == value]
        best = (min if monitor.startswith("min ") else max)(known, default=float("nan"))
        value = best if trial.value is None else trial.value
        point = {key: decoded(each) for key, each in trial.params.items()}
        error = "" if trial.state == TrialState.COMPLETE else str(trial.user_attrs.get("error", ""))
        took = _trained(folder, trial.number)
        rows.append({"point": trial.number, "state": trial.state.name.lower(), monitor.split()[1]: value, **point})
        rows[-1] |= {"seconds": round(took, 1), "error": error[:150]}
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    order = monitor.startswith("min ")
    table = table.sort_values(["state", monitor.split()[1]], ascending=[True, order], kind="stable")
    return table if table["error"].any() else table.drop(columns="error")


def _trained(folder: Path, point: int) -> float:
    """The seconds that a point was trained for."""
    with contextlib.suppress(OSError, ValueError, KeyError, StopIteration):
        return float(pd.read_csv(next((folder / "log").glob(f"*/point-{point:04}")) / "metrics.csv")["seconds"].sum())
    return float("nan")


def _drawn(study: optuna.Study, folder: Path, complete: int) -> list[str]:
    """Pictures: the values as they came, and against each setting."""
    import optuna.visualization.matplotlib as pictures

    lines = []
    drawings: dict[str, Any] = {"history": pictures.plot_optimization_history, "settings": pictures.plot_slice}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are experimental
        for name, draw in drawings.items():
            if name == "settings" and complete < 2:
                continue
            draw(study)
            figure = plt.gcf()
            with replacing(folder / f"{name}.png") as file:
                figure.savefig(file, dpi=110, bbox_inches="tight", format="png")
            plt.close(figure)
            lines.append(f"wrote {shown(folder / f'{name}.png')}")
    return lines
