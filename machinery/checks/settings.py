"""Settings that make no sense together, found before a run begins."""

import contextlib
import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DistributedSampler

from machinery import distributed
from machinery.errors import ConfigError, described
from machinery.update.metrics import asks_others
from machinery.update.monitor import Monitor

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
        raise ConfigError(
            "loss is missing: name one of model/loss.py, or give the trainer a _forward of its own"
        )
    if isinstance(optimizer, torch.optim.LBFGS) and not own & {"_update", "_train_epoch"}:
        what = "LBFGS computes its loss several times a step"
        raise ConfigError(f"{what}: set trainer.type=examples.lbfgs.trainer.LBFGSTrainer")


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
    there = [*names, *(f"val_{name}" for name in names if validated)]
    if monitor.on and monitor.name not in there:
        hint = (
            " (there is no validation data)" if monitor.name.removeprefix("val_") in names else ""
        )
        problem(
            "monitor", f"no metric is called {monitor.name!r}{hint}; there are: {', '.join(there)}"
        )
    if settings.early_stop and not monitor.on:
        name = there[-len(names) * validated]
        problem(
            "early_stop", f'there is nothing to judge by: set trainer.monitor, such as "min {name}"'
        )
    if batches and settings.accumulate > batches:
        problem(
            "accumulate", f"{settings.accumulate} batches are more than the {batches} of an epoch"
        )
    if batches and settings.save_step and settings.save_step >= batches:
        problem("save_step", f"an epoch has {batches} batches, so this would never save")
    for name in names:
        if name in RESERVED or names.count(name) > 1 or (name[:4] == "val_" and name[4:] in names):
            problems.append(
                f'metrics: the name {name!r} is taken: give the metric a "name" of its own'
            )
    if problems:
        raise ConfigError("\n  ".join(dict.fromkeys(problems)))


def check_loss(loss: Any) -> torch.Tensor:
    """The loss, if gradients can be computed of it.

    Raises:
        ConfigError: with what it is.
    """
    if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
        found = described(loss) if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        raise ConfigError(
            f"the loss is {found}: expected a tensor with a gradient and one value, the mean"
        )
    return loss


def check_processes(
    model: torch.nn.Module, loader: Any, metrics: Sequence[Any], synced: bool
) -> None:
    """Refuse metrics that several processes could not add up, and data that they could not train on as one does.

    Args:
        synced: whether BatchNorm sees the whole batch.

    Raises:
        ConfigError: with what to change.
    """
    for metric in metrics if distributed.SIZE > 1 else ():
        if hasattr(metric, "compute") and not (
            asks_others(metric) or hasattr(metric, "merge_state")
        ):
            what = "merge_state(other), which adds what that of another process has counted"
            raise ConfigError(
                f"metrics: on several processes {metric.__name__} needs a method {what}"
            )
    processes, size = distributed.SIZE, getattr(loader, "batch_size", None)
    if processes == 1 or not isinstance(size, int):
        return
    if any(getattr(module, "sparse", False) is True for module in model.modules()):
        raise ConfigError(
            "sparse gradients: DistributedDataParallel averages the others wrongly beside them"
        )
    if size < processes:
        raise ConfigError(
            f"data_loader.args.batch_size: {size} samples are too few for {processes} processes"
        )
    if not (
        hasattr(loader, "batches")
        or isinstance(getattr(loader, "sampler", None), DistributedSampler)
    ):
        what = f"{type(loader).__name__} gives each of the {processes} processes all of its batches"
        logging.getLogger("trainer").warning(
            f"{what}: a loader on BaseDataLoader would share them out"
        )
    last = 0 if loader.drop_last else getattr(loader, "n_samples", 0) % size
    norm = any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules())
    if norm and not synced and (last or size) < 2 * processes:
        what = f"a batch of {last or size} leaves one of {processes} processes a single sample, too few for BatchNorm"
        raise ConfigError(f"{what}: set data_loader.args.drop_last, or another batch_size")


def warn_of_loss(criterion: Any, output: Any, target: Any) -> None:
    """Warn of a loss that is not the mean over the samples of a batch, as far as that can be told.

    It is computed in float64 for some samples at once, and for pairs of them. A loss that compares the samples of a
    batch with each other has an attribute `in_batch`, which is true, and is not judged.
    """
    if getattr(getattr(criterion, "func", criterion), "in_batch", False):
        return
    with contextlib.suppress(Exception), torch.no_grad():  # not every loss takes a part, or float64
        criterion = copy.deepcopy(criterion)  # which may count its calls
        criterion = criterion.double() if isinstance(criterion, torch.nn.Module) else criterion
        data = [
            value.detach().double() if value.is_floating_point() else value
            for value in (output, target)
        ]
        if (
            output.shape != target.shape and output.numel() == target.numel()
        ):  # so that a broadcast is seen
            data[0] = data[0] + data[1].reshape(output.shape)
        m = min(len(output) - len(output) % 2, 16)
        slices = [slice(m), slice(m), *(slice(start, start + 2) for start in range(0, m, 2))]
        losses = [criterion(*(value[part] for value in data)) for part in slices]
        whole, again, *pairs = map(float, losses)
        mean = sum(pairs) / len(pairs)
        tolerance = 1e-9 if losses[0].dtype == torch.float64 else 1e-4
        if whole == again and not math.isclose(
            whole, mean, rel_tol=tolerance, abs_tol=tolerance**1.5
        ):
            shapes = f"output {described(output)}, target {described(target)}"
            what = f"the loss of {m} samples is {whole:.8g}, but {mean:.8g} as the mean over pairs of them ({shapes})"
            hint = "A sum? Shapes that are broadcast? If it is meant, give the loss an attribute in_batch = True"
            logging.getLogger("trainer").warning(
                f"{what}: averages depend on the batch size. {hint}"
            )


def check_overrides(kind: type, base: type) -> None:
    """Refuse methods of a trainer of the user's own that nothing would call.

    Raises:
        ConfigError: naming the method.
    """
    for name in ("_save_checkpoint", "_resume_checkpoint"):
        if getattr(kind, name) is not getattr(base, name):
            what = "whatever attribute has a state_dict and a load_state_dict is saved and restored"
            raise ConfigError(f"{kind.__name__}.{name} would never be called: leave it out; {what}")


def numbers_of(log: Mapping[str, Any], logger: logging.Logger) -> dict[str, float]:
    """What of an epoch's log is a number; the rest, text or many values, is shown."""
    numbers = {}
    for name, value in log.items():
        try:
            numbers[name] = float(value.detach() if isinstance(value, torch.Tensor) else value)
        except (TypeError, ValueError, RuntimeError):
            logger.info(f"{name} {value}")
    return numbers
