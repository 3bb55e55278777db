"""Settings that make no sense together, found before a run begins."""

import contextlib
import copy
import math
from typing import TYPE_CHECKING, Any

import torch

from base.monitor import Monitor
from utils.errors import ConfigError, described

if TYPE_CHECKING:
    from parse_config import ConfigParser

#: Names of the table's other columns.
RESERVED = ("epoch", "lr", "seconds", "samples/s")


def check_parts(kind: type, template: type, criterion: Any, optimizer: Any) -> None:
    """Refuse parts that only a trainer with methods of its own can use.

    Args:
        kind, template: the trainer's class, and the one whose methods it may have replaced.

    Raises:
        ConfigError: naming the method, or where there is one.
    """
    names = ("_forward", "_compute", "_update", "_train_epoch")
    own = {name for name in names if getattr(kind, name) is not getattr(template, name)}
    if criterion is None and not own:
        raise ConfigError("loss is missing: name one of model/loss.py, or give the trainer a _forward of its own")
    if isinstance(optimizer, torch.optim.LBFGS) and not own & {"_update", "_train_epoch"}:
        raise ConfigError("LBFGS computes its loss several times a step: take the trainer of examples/lbfgs.py")


def check_settings(config: "ConfigParser", names: list[str], validated: bool, batches: int) -> None:
    """Check the trainer's settings against the metrics and the data.

    Args:
        names: of the loss terms and metrics.
        validated: whether there is validation data.
        batches: in an epoch; 0 if that is not known.

    Raises:
        ConfigError: with all problems.
    """
    settings = config.settings.trainer
    problems = []

    def problem(key: str, text: str) -> None:
        problems.append(f"{config.where('trainer', key)}: trainer.{key}: {text}")

    monitor = Monitor(settings.monitor, settings.early_stop)
    try:
        monitor.check([*names, *(f"val_{name}" for name in names if validated)])
    except ConfigError as error:
        problems.append(f"{config.where('trainer', 'monitor')}: {error}")
    if settings.early_stop and not monitor.on:
        problem("early_stop", 'there is nothing to judge by: set trainer.monitor, such as "min val_loss"')
    if batches and settings.accumulate > batches:
        problem("accumulate", f"{settings.accumulate} batches are more than the {batches} of an epoch")
    if batches and settings.save_step and settings.save_step >= batches:
        problem("save_step", f"an epoch has {batches} batches, so this would never save")
    for name in names:
        if name in RESERVED or names.count(name) > 1 or (name[:4] == "val_" and name[4:] in names):
            problems.append(f'metrics: the name {name!r} is taken: give the metric a "name" of its own')
    if problems:
        raise ConfigError("\n  ".join(dict.fromkeys(problems)))


def odd_loss(criterion: Any, output: Any, target: Any, tolerance: float) -> str:
    """What is odd about a loss that is not the mean over the samples of a batch, as far as that can be told.

    It is computed for some samples at once, and for pairs of them. A loss that compares the samples of a batch with
    each other has an attribute `in_batch`, which is true, and is not judged.
    """
    named = getattr(criterion, "func", criterion)
    if (
        not isinstance(output, torch.Tensor)
        or not isinstance(target, torch.Tensor)
        or getattr(named, "in_batch", False)
    ):
        return ""
    m, criterion = min(len(output) - len(output) % 2, 16), copy.deepcopy(criterion)  # which may count its calls
    slices = [slice(m), slice(m), *(slice(start, start + 2) for start in range(0, m, 2))]
    with contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng([]):  # not every loss takes a part
        whole, again, *pairs = (float(criterion(output[part], target[part])) for part in slices)
        mean = sum(pairs) / len(pairs)
        if whole == again and not math.isclose(whole, mean, rel_tol=tolerance, abs_tol=1e-6):
            return (
                f"the loss of {m} samples is {whole:.4g}, but {mean:.4g} as the mean over pairs of them (output"
                f" {described(output)}, target {described(target)}): averages depend on the batch size. A sum? Shapes"
                " that are broadcast? If it is meant, give the loss an attribute in_batch = True"
            )
    return ""
