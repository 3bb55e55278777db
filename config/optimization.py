"""Builds the optimizer and the scheduler, with the groups and lengths that only the program knows."""

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from config.components import find
from config.factory import Factory, construct
from config.source import matching
from utils.errors import ConfigError

if TYPE_CHECKING:
    import torch


def init_optimizer(config: Factory, model: "torch.nn.Module", *own: ModuleType) -> "torch.optim.Optimizer":
    """The optimizer of the config over the trainable parameters of `model`, in groups as `param_groups` says.

    Args:
        own: modules of the project's that have optimizers, too; they come before torch's.

    Raises:
        ConfigError: there is nothing to train, a pattern matches nothing, or the optimizer cannot train this model.
    """
    import torch

    modules = (*own, torch.optim)
    component = config["optimizer"]
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    where = f"{config.where('optimizer')}: optimizer"
    if not named:
        raise ConfigError(f"{where}: the model has no parameter to train (see arch.freeze)")
    if any(map(torch.nn.parameter.is_lazy, named.values())):
        raise ConfigError(f"{where}: the model's lazy modules have no weights yet: give it a batch in its constructor")
    if component["type"] == "SparseAdam" and not any(getattr(module, "sparse", False) for module in model.modules()):
        raise ConfigError(f"{where}: SparseAdam needs sparse gradients, as of nn.Embedding(…, sparse=True)")
    if not component["param_groups"]:
        return config.init_obj("optimizer", modules, list(named.values()))
    kind = find(modules, "optimizer", component["type"], config.source, ("optimizer",))
    rest, groups = dict(named), []
    one = torch.zeros(1, 1, requires_grad=True)
    known = config.init_obj("optimizer", modules, [one]).defaults
    for i, group in enumerate(component["param_groups"]):
        where = f"{config.where('optimizer', 'param_groups', i)}: optimizer.param_groups.{i}"
        options = {key: value for key, value in group.items() if key != "match"}
        patterns = [group["match"]] if isinstance(group["match"], str) else group["match"]
        names = {name for pattern in patterns for name in matching(pattern, list(named), f"{where}.match")}
        groups.append({"params": [rest.pop(name) for name in named if name in names & rest.keys()], **options})
        if not options.keys() <= known.keys():
            unknown = ", ".join(options.keys() - known.keys())
            raise ConfigError(f"{where}: {component['type']} takes no {unknown} for a group (but {', '.join(known)})")
        # On its own first: torch checks the values of an optimizer's arguments, but not those of a group.
        construct(kind, ([one],), {**component["args"], **options}, where)
    return config.init_obj("optimizer", modules, [{"params": list(rest.values())}, *groups])


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
    trial = _try_out(partial(config.init_obj, "lr_scheduler", modules, **lengths), optimizer, where)
    if isinstance(trial, schedulers.ReduceLROnPlateau):
        _check_plateau(config, trial.mode, where)
    scheduler = config.init_obj("lr_scheduler", modules, optimizer, **lengths)
    total = getattr(scheduler, "total_steps", steps)
    if total != steps:
        needed = f"but the run takes {steps} (one every {component['interval']})"
        hint = 'leave total_steps, epochs and steps_per_epoch out, or set "interval"'
        raise ConfigError(f"{where}: {kind} is made for {total} steps, {needed}: {hint}")
    return scheduler


def _try_out(make: Callable[..., Any], optimizer: "torch.optim.Optimizer", where: str) -> Any:
    """A scheduler that has taken two steps with an optimizer that trains nothing: some values fail only then."""
    import torch

    one = torch.zeros(1, 1)
    trial: Any = torch.optim.Optimizer(
        [{**group, "params": [one.clone()]} for group in optimizer.param_groups], optimizer.defaults
    )
    trial._opt_called = True  # or torch would warn that its step comes first
    scheduler: Any = make(trial)
    try:
        for _ in range(min(2, getattr(scheduler, "total_steps", 2))):
            scheduler.step(*([1.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    except Exception as error:
        raise ConfigError(f"{where}: {type(error).__name__} when stepped: {error}") from error
    rates = [float(group["lr"]) for group in trial.param_groups]
    if not all(0 <= rate < math.inf for rate in rates):
        raise ConfigError(f"{where}: makes learning rates of {', '.join(f'{rate:.3g}' for rate in rates)}")
    return scheduler


def _check_plateau(config: Factory, mode: str, where: str) -> None:
    monitor = config.settings.trainer.monitor
    if config["lr_scheduler"]["interval"] != "epoch":
        raise ConfigError(f'{where}: ReduceLROnPlateau judges epochs: "interval": "epoch"')
    if monitor != "off" and not monitor.startswith(f"{mode} "):
        wanted = f'watches trainer.monitor "{monitor}": set its "mode" to "{monitor.split()[0]}"'
        raise ConfigError(f'{where}: ReduceLROnPlateau with mode "{mode}" {wanted}')
