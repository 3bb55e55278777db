"""Builds the optimizer and the scheduler, with the groups and lengths that only the program knows."""

import copy
import math
from types import ModuleType
from typing import TYPE_CHECKING, Any

from config.components import find
from config.factory import Factory
from utils.errors import ConfigError

if TYPE_CHECKING:
    import torch


def init_optimizer(config: Factory, model: "torch.nn.Module", *own: ModuleType) -> "torch.optim.Optimizer":
    """The optimizer of the config over the trainable parameters of `model`, which it is given with their names.

    Args:
        own: modules of the project's that have optimizers, too; they come before torch's.

    Raises:
        ConfigError: there is nothing to train, or the optimizer cannot train this model.
    """
    import torch

    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    where = f"{config.where('optimizer')}: optimizer"
    if not named:
        raise ConfigError(f"{where}: the model has no parameter to train (see arch.freeze)")
    if any(torch.nn.parameter.is_lazy(parameter) for _, parameter in named):
        raise ConfigError(f"{where}: the model's lazy modules have no weights yet: give it a batch in its constructor")
    if config["optimizer"]["type"] == "SparseAdam" and not any(getattr(m, "sparse", False) for m in model.modules()):
        raise ConfigError(f"{where}: SparseAdam needs sparse gradients, as of nn.Embedding(…, sparse=True)")
    return config.init_obj("optimizer", (*own, torch.optim), named)


def init_scheduler(config: Factory, optimizer: "torch.optim.Optimizer", batches: int, *own: ModuleType) -> Any:
    """The learning-rate scheduler of the config, or None.

    A OneCycleLR that says nothing of its length gets that of the run (`total_steps`).

    Args:
        batches: in one pass over the training data.
        own: modules of the project's that have schedulers, too; they come before torch's.

    Raises:
        ConfigError: its length or its mode contradicts the run's.
    """
    import torch

    schedulers = torch.optim.lr_scheduler
    modules = (*own, schedulers)
    component, settings = config["lr_scheduler"], config.settings.trainer
    if component is None:
        return None
    kind = component["type"]
    updates = -(-(settings.len_epoch or batches) // settings.accumulate)
    steps = settings.epochs * (updates if component["interval"] == "step" else 1)
    lengths = {}
    where = f"{config.where('lr_scheduler')}: lr_scheduler"
    one_cycle = find(modules, "lr_scheduler", kind, config.source, ("lr_scheduler",)) is schedulers.OneCycleLR
    if one_cycle and not {"total_steps", "epochs", "steps_per_epoch"} & component["args"].keys():
        lengths["total_steps"] = steps
    rate = config.where("optimizer", "args", "lr")
    if kind in ("OneCycleLR", "CyclicLR") and rate.startswith("command"):
        raise ConfigError(f"{rate}: the learning rate follows {kind}: set lr_scheduler.args.max_lr instead")
    scheduler = config.init_obj("lr_scheduler", modules, optimizer, **lengths)
    if isinstance(scheduler, schedulers.ReduceLROnPlateau):
        _check_plateau(config, scheduler.mode, where)
    total = getattr(scheduler, "total_steps", steps)
    if total != steps:
        needed = f"but the run takes {steps} (one every {component['interval']})"
        hint = 'leave total_steps, epochs and steps_per_epoch out, or set "interval"'
        raise ConfigError(f"{where}: {kind} is made for {total} steps, {needed}: {hint}")
    _try_out(scheduler, optimizer, where)
    return scheduler


def _try_out(scheduler: Any, optimizer: "torch.optim.Optimizer", where: str) -> None:
    """Take two steps, and take them back: some values fail only then."""
    before = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    optimizer._opt_called = True  # type: ignore[attr-defined]  # or torch would warn that its step comes first
    try:
        for _ in range(min(2, getattr(scheduler, "total_steps", 2))):
            scheduler.step(*([1.0] if hasattr(scheduler, "num_bad_epochs") else []))
    except Exception as error:
        raise ConfigError(f"{where}: {type(error).__name__} when stepped: {error}") from error
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if not all(0 <= rate < math.inf for rate in rates):
        raise ConfigError(f"{where}: makes learning rates of {', '.join(f'{rate:.3g}' for rate in rates)}")
    optimizer.load_state_dict(before[0])
    scheduler.load_state_dict(before[1])


def _check_plateau(config: Factory, mode: str, where: str) -> None:
    monitor = config.settings.trainer.monitor
    if config["lr_scheduler"]["interval"] != "epoch":
        raise ConfigError(f'{where}: ReduceLROnPlateau judges epochs: "interval": "epoch"')
    if monitor != "off" and not monitor.startswith(f"{mode} "):
        wanted = f'watches trainer.monitor "{monitor}": set its "mode" to "{monitor.split()[0]}"'
        raise ConfigError(f'{where}: ReduceLROnPlateau with mode "{mode}" {wanted}')
