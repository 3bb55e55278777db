"""Settings of the trainer that make no sense together, or with the metrics and the data."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from machinery.checkpoints.saving import problem_of_saving
from machinery.config.settings import TrainerSettings
from machinery.errors import ConfigError
from machinery.update.metrics import MetricTracker, classes_of
from machinery.update.watching import Monitor

#: Names of the other numbers that are written: in the row of an epoch, and in TensorBoard.
RESERVED = ("epoch", "lr", "seconds", "samples/s", "peak_gib", "grad_norm", "samples_per_second")

#: The share of the first weights that may be left in an average.
_MOST_LEFT = 0.1


class Problem(NamedTuple):
    """What is wrong with a key of the section `trainer`."""

    key: str
    text: str


def check_settings(
    settings: TrainerSettings,
    where: Callable[..., str],
    names: Sequence[str],
    own: Sequence[str] | None,
    prefixes: Sequence[str],
    batches: int,
) -> None:
    """Check the trainer's settings against the metrics and the data.

    Args:
        where: gives the origin of a key path: `where("trainer", "monitor")`, "config.json:12:5".
        names: of the loss terms and metrics.
        own: of other numbers that the trainer logs; None: it is the template's, and has none.
        prefixes: of the numbers of each validation set, as of `sets_of`.
        batches: in an epoch; 0 if that is not known.

    Raises:
        ConfigError: with all problems.
    """
    problems = [
        *_problems_of_judging(settings, names, own, prefixes),
        *_problems_of_length(settings, batches),
        *_problems_of_saving(settings),
    ]
    lines = [f"{where('trainer', key)}: trainer.{key}: {text}" for key, text in problems]
    for name in _taken([*names, *(own or ())], prefixes):
        lines.append(f'metrics: the name {name!r} is taken: give the metric a "name" of its own')
    if lines:
        raise ConfigError("\n  ".join(lines))


def tell_of_average(settings: TrainerSettings, batches: int) -> None:
    """Say if the average of the weights hardly follows them in a run of this length."""
    if settings.ema is None or settings.epochs is None or batches == 0:
        return
    steps = settings.epochs * math.ceil(batches / settings.accumulate)
    left = settings.ema**steps
    if left > _MOST_LEFT:
        what = f"trainer.ema {settings.ema}: after the {steps} steps of the run, {left:.0%}"
        hint = "a smaller one follows faster"
        told = f"{what} of the average is what the first step has left: {hint}"
        logging.getLogger("trainer").warning(told)


def sets_of(valid_loader: Any) -> dict[str, Any]:
    """The validation sets, by what their numbers begin with: "val_", or "val_NAME_" of several."""
    if valid_loader is None:
        return {}
    if isinstance(valid_loader, Mapping):
        return {f"val_{name}_": loader for name, loader in valid_loader.items()}
    return {"val_": valid_loader}


def _logged(names: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """The names of all numbers of training and validation."""
    logged = list(names)
    for prefix in prefixes:
        logged += [prefix + name for name in names]
    return logged


def _problems_of_judging(
    settings: TrainerSettings,
    names: Sequence[str],
    own: Sequence[str] | None,
    prefixes: Sequence[str],
) -> Iterator[Problem]:
    """What is wrong with how the best epoch is found, and when to stop for want of a better."""
    logged = [*_logged(names, prefixes), *(own or ())]
    monitor = Monitor(settings.monitor, settings.early_stop)
    if monitor.on and monitor.name not in logged:
        metric, slash, _ = monitor.name.partition("/")
        if not slash or metric not in logged:  # else "metric/class", which its first value tells
            text = _unknown_number(monitor.name, names, logged)
            if own is not None:
                line = f'log_names = ("{monitor.name}",)'
                text += f"; if the trainer logs it, its class says so: {line}"
            yield Problem("monitor", text)
    if settings.early_stop and not monitor.on:
        example = logged[0]
        if prefixes:
            example = prefixes[0] + logged[0]
        text = f'there is nothing to judge by: set trainer.monitor, such as "min {example}"'
        yield Problem("early_stop", text)


def _unknown_number(name: str, names: Sequence[str], logged: Sequence[str]) -> str:
    """That no number of that name is logged, and what there is."""
    known = ", ".join(logged)
    if name.removeprefix("val_") in names:
        hint = " (there is no validation data)"
        if any(each.startswith("val_") for each in logged):
            hint = " (each validation set has its own)"
        return f"no metric is called {name!r}{hint}; there are: {known}"
    return f"no metric is called {name!r}; there are: {known}"


def check_first_numbers(
    settings: TrainerSettings,
    where: Callable[..., str],
    tracker: MetricTracker,
    sets: Mapping[str, Any],
    own: Sequence[str],
) -> None:
    """Refuse a monitored number that its metric does not give: with the first update, it shows.

    Args:
        where: gives the origin of a key path.
        tracker: of the training, which has counted a batch.
        sets: of validation, as of `sets_of`.
        own: the names of other numbers that the trainer logs.

    Raises:
        ConfigError: with the names that there are.
    """
    monitor = Monitor(settings.monitor, settings.early_stop)
    if not monitor.on or monitor.name in own:
        return
    try:
        logged, tables = _first_numbers(tracker, sets)
    except Exception:  # there is too little to compute; the end of the epoch tells
        return
    if monitor.name in logged:
        return
    metric = monitor.name.partition("/")[0]
    of_metric = [name for name in logged if name.partition("/")[0] == metric]
    origin = f"{where('trainer', 'monitor')}: trainer.monitor"
    if of_metric:
        known = ", ".join(of_metric)
        raise ConfigError(f"{origin}: {metric} has no {monitor.name!r}; there are: {known}")
    if metric in tables:
        raise ConfigError(f"{origin}: {metric} is a table, and no number")


def _first_numbers(tracker: MetricTracker, sets: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The names of the numbers, and of the tables, that training and validation give."""
    trial = copy.deepcopy(tracker)
    logged = list(trial.result())
    tables = list(trial.tables)
    for prefix, loader in sets.items():
        trial.classes = classes_of(loader)
        logged += [prefix + name for name in trial.result()]
        tables += [prefix + name for name in trial.tables]
    return logged, tables


def _problems_of_length(settings: TrainerSettings, batches: int) -> Iterator[Problem]:
    """What an epoch is too short for."""
    if batches == 0:
        return
    if settings.accumulate > batches:
        text = f"{settings.accumulate} batches are more than the {batches} of an epoch"
        yield Problem("accumulate", text)
    if settings.save_step is not None and settings.save_step >= batches:
        yield Problem("save_step", f"an epoch has {batches} batches, so this would never save")


def _problems_of_saving(settings: TrainerSettings) -> Iterator[Problem]:
    """What checkpoints cannot be."""
    problem = problem_of_saving(settings)
    if problem:
        yield Problem("checkpoint", problem)


def _taken(names: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """The names that another of the numbers that are written has, too; each once."""
    derived: set[str] = set()
    of_sets: list[str] = []
    for name in names:
        derived.update((f"~best/{name}", f"val_{name}"))
        of_sets += [prefix + name for prefix in prefixes]
    derived.update(of_sets)
    taken: list[str] = []
    for name in names:
        if name in taken:
            continue
        if name in RESERVED or names.count(name) > 1 or name in derived:
            taken.append(name)
    # One set may be called as the end of another's name and a metric's beginning.
    return taken + [name for name in dict.fromkeys(of_sets) if of_sets.count(name) > 1]
