"""Pictures of a sweep: the values as they came, and against each setting."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import optuna
from optuna.trial import FrozenTrial, TrialState

from machinery.files import replacing, shown
from tools.sweeping.point import is_minimized, watched_name
from tools.sweeping.spec import decoded
from tools.sweeping.values import deviation_of, value_of

#: Settings beside each other.
_ACROSS = 3
#: Of the name of a value, at most.
_LETTERS = 30
#: Of points that were trained to their end, and of those that were not.
_DONE, _PRUNED = "tab:blue", "tab:orange"


class Point(NamedTuple):
    """A point as it is drawn."""

    number: int
    value: float
    deviation: float
    is_done: bool
    params: dict[str, Any]


def points_of(study: optuna.Study, monitor: str) -> list[Point]:
    """The points that have a value, also those that were pruned."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        value = value_of(trial, monitor)
        if math.isfinite(value):
            deviation = deviation_of(trial)
            is_done = trial.state == TrialState.COMPLETE
            found.append(Point(trial.number, value, deviation, is_done, _decoded(trial)))
    return found


def _decoded(trial: FrozenTrial) -> dict[str, Any]:
    return {key: decoded(choice) for key, choice in trial.params.items()}


def draw(study: optuna.Study, folder: Path, monitor: str) -> list[str]:
    """Draw the values as they came, and against each setting; a line for each picture."""
    points = points_of(study, monitor)
    lines = [_saved(_history(points, monitor), folder / "history.png")]
    if len(points) > 1:
        lines.append(_saved(_settings(points, study, monitor), folder / "settings.png"))
    return lines


def _saved(figure: Any, file: Path) -> str:
    try:
        with replacing(file) as out:
            figure.savefig(out, dpi=110, bbox_inches="tight", format="png")
    finally:
        plt.close(figure)
    return f"wrote {shown(file)}"


def _history(points: list[Point], monitor: str) -> Any:
    """The values as they came, with the best so far."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    _scatter(axes, [point.number for point in points], points)
    best: list[tuple[int, float]] = []
    for point in points:
        if point.is_done:
            so_far = [value for _, value in best[-1:]] + [point.value]
            best.append((point.number, min(so_far) if is_minimized(monitor) else max(so_far)))
    numbers, values = zip(*best, strict=True)
    axes.step(numbers, values, where="post", color="black", linewidth=1, label="best")
    axes.set(xlabel="point", ylabel=watched_name(monitor))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


def _scatter(axes: Any, places: list[Any], points: list[Point]) -> None:
    """Points of a sweep: full where they were trained to their end, open where pruned."""
    for is_done, name, look in (
        (True, "complete", {"color": _DONE}),
        (False, "pruned", {"facecolors": "none", "edgecolors": _PRUNED}),
    ):
        chosen = [i for i, point in enumerate(points) if point.is_done == is_done]
        if not chosen:
            continue
        x = [places[i] for i in chosen]
        y = [points[i].value for i in chosen]
        axes.scatter(x, y, s=28, label=name, zorder=3, **look)
        bars = [0 if math.isnan(points[i].deviation) else points[i].deviation for i in chosen]
        if any(bars):
            axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=look.get("color"), capsize=3)


def _settings(points: list[Point], study: optuna.Study, monitor: str) -> Any:
    """The values against each setting."""
    names: dict[str, None] = {}
    for point in points:
        names.update(dict.fromkeys(point.params))
    across = min(len(names), _ACROSS)
    down = math.ceil(len(names) / across)
    figure, axes = plt.subplots(
        down, across, figsize=(3.6 * across, 3.2 * down), layout="constrained", squeeze=False
    )
    logarithmic = _logarithmic(study)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        having = [point for point in points if name in point.params]
        values = [point.params[name] for point in having]
        if _are_numbers(values):
            _scatter(axis, values, having)
        else:
            _scatter(axis, _numbered(axis, values), having)
        if name in logarithmic:
            _spread_powers(axis, max(values) / min(values))
        axis.set_xlabel(name, fontsize=8)
        axis.set_ylabel(watched_name(monitor), fontsize=8)
        axis.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=7)
    return figure


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)


def _numbered(axis: Any, values: list[Any]) -> list[int]:
    """The places of values that are no numbers, which are named below the axis."""
    texts = [json.dumps(value, sort_keys=True) for value in values]
    kinds = sorted(set(texts))
    named = [_named(json.loads(kind)) for kind in kinds]
    if len(set(named)) < len(named):  # components of one type
        named = kinds
    labels = [name if len(name) <= _LETTERS else f"{name[:_LETTERS]}…" for name in named]
    axis.set_xticks(range(len(kinds)), labels, rotation=20, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(kinds) - 0.5)
    return [kinds.index(text) for text in texts]


def _named(value: Any) -> str:
    """What a value is called in a few letters: a component by its type, without its module."""
    if isinstance(value, Mapping):
        value = value.get("type", value)
    if isinstance(value, str):
        return value.rpartition(".")[2]
    return json.dumps(value).replace('"', "")


def _spread_powers(axis: Any, ratio: float) -> None:
    """Let each power of ten have the same room.

    Args:
        ratio: of the largest number to the smallest; only few have labels between the powers.
    """
    axis.set_xscale("log")
    labelled = (1, 2, 5) if ratio < 100 else (1,)
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=labelled, numticks=6))
    axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda number, _: f"{number:g}"))
    axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())


def _logarithmic(study: optuna.Study) -> set[str]:
    """The settings whose magnitudes count."""
    found = set()
    for trial in study.get_trials(deepcopy=False):
        for name, distribution in trial.distributions.items():
            if getattr(distribution, "log", False):
                found.add(name)
    return found
