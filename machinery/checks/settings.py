"""Settings of the trainer that make no sense together, or with the metrics and the data."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from machinery.config.settings import TrainerSettings
from machinery.errors import ConfigError
from machinery.update.watching import Monitor

#: Names of the other numbers that are written: in the row of an epoch, and in TensorBoard.
RESERVED = ("epoch", "lr", "seconds", "samples/s", "grad_norm", "samples_per_second")


class Problem(NamedTuple):
    """What is wrong with a key of the section `trainer`."""

    key: str
    text: str


def check_settings(
    settings: TrainerSettings,
    where: Callable[..., str],
    names: Sequence[str],
    validated: bool,
    batches: int,
) -> None:
    """Check the trainer's settings against the metrics and the data.

    Args:
        where: gives the origin of a key path: `where("trainer", "monitor")`, "config.json:12:5".
        names: of the loss terms and metrics.
        validated: whether there is validation data.
        batches: in an epoch; 0 if that is not known.

    Raises:
        ConfigError: with all problems.
    """
    problems = [
        *_problems_of_judging(settings, names, validated),
        *_problems_of_length(settings, batches),
    ]
    lines = [f"{where('trainer', key)}: trainer.{key}: {text}" for key, text in problems]
    for name in _taken(names):
        lines.append(f'metrics: the name {name!r} is taken: give the metric a "name" of its own')
    if lines:
        raise ConfigError("\n  ".join(lines))


def _problems_of_judging(
    settings: TrainerSettings, names: Sequence[str], validated: bool
) -> Iterator[Problem]:
    """What is wrong with how the best epoch is found, and when to stop for want of a better."""
    logged = list(names)
    first_to_judge_by = 0
    if validated:
        logged += [f"val_{name}" for name in names]
        first_to_judge_by = len(names)
    monitor = Monitor(settings.monitor, settings.early_stop)
    if monitor.on and monitor.name not in logged:
        hint = ""
        if monitor.name.removeprefix("val_") in names:
            hint = " (there is no validation data)"
        known = ", ".join(logged)
        text = f"no metric is called {monitor.name!r}{hint}; there are: {known}"
        yield Problem("monitor", text)
    if settings.early_stop and not monitor.on:
        example = logged[first_to_judge_by]
        text = f'there is nothing to judge by: set trainer.monitor, such as "min {example}"'
        yield Problem("early_stop", text)


def _problems_of_length(settings: TrainerSettings, batches: int) -> Iterator[Problem]:
    """What an epoch is too short for."""
    if batches == 0:
        return
    if settings.accumulate > batches:
        text = f"{settings.accumulate} batches are more than the {batches} of an epoch"
        yield Problem("accumulate", text)
    if settings.save_step is not None and settings.save_step >= batches:
        yield Problem("save_step", f"an epoch has {batches} batches, so this would never save")


def _taken(names: Sequence[str]) -> list[str]:
    """The names that another of the numbers that are written has, too; each once."""
    derived: set[str] = set()
    for name in names:
        derived.update((f"val_{name}", f"best/{name}"))
    taken: list[str] = []
    for name in names:
        if name in taken:
            continue
        if name in RESERVED or names.count(name) > 1 or name in derived:
            taken.append(name)
    return taken
