"""Builds the optimizer of a config, and its learning-rate scheduler for the length of the run."""

import math
from types import ModuleType
from typing import TYPE_CHECKING, Any

from machinery.config.arguments import accepted
from machinery.config.changes import is_set
from machinery.config.components import Modules, find
from machinery.config.factory import Factory
from machinery.config.fusing import Fusing
from machinery.config.groups import grouped
from machinery.config.schema import LRScheduler
from machinery.config.source import dotted
from machinery.errors import ConfigError

if TYPE_CHECKING:
    import torch

#: Schedulers that give all groups rates of their own.
_OWN_RATES = ("OneCycleLR", "CyclicLR")
#: The order of an optimizer's groups.
_ORDER = "of what no group matches, of the groups, and last of those with a type"
#: Arguments that say how long a schedule is, of OneCycleLR.
_LENGTHS = ("total_steps", "epochs", "steps_per_epoch")


def init_optimizer(
    config: Factory, model: "torch.nn.Module", *own: ModuleType, loss: Any = None
) -> "torch.optim.Optimizer":
    """The optimizer of the config over the trainable parameters of `model`.

    It is given them with their names, and those of the loss if the config says so.

    Args:
        config: the config.
        model: to train.
        own: modules of the project's that have optimizers, too; they come before torch's.
        loss: of the training, which may have parameters; their names begin with "loss.".

    Raises:
        ConfigError: there is nothing to train, or the optimizer cannot train this model.
    """
    import torch

    component = config.settings.optimizer
    named = _to_train(config, model, loss)
    modules = (*own, torch.optim)
    if component is None or component.type is None:
        return config.init_obj("optimizer", modules, named)
    kind = find(modules, component.type, config.source, ("optimizer",))
    fusing = Fusing(model, loss, config.starting)
    if not component.groups:
        fused = fusing.argument(kind, component.args, named)
        return config.init_obj("optimizer", modules, named, **fused)
    groups = grouped(config, component.groups, named, kind, modules, fusing)
    fused = fusing.argument(kind, {*component.args, *groups.given}, named)
    optimizer = config.init_obj("optimizer", modules, groups.own, **fused)
    if not groups.others:
        return optimizer
    from machinery.config.several import as_one

    return as_one([optimizer, *groups.others])


def _to_train(
    config: Factory, model: "torch.nn.Module", loss: Any
) -> "list[tuple[str, torch.nn.Parameter]]":
    """The parameters that the optimizer is given."""
    import torch

    where = f"{config.where('optimizer')}: optimizer"
    named = _trainable(model, "", where)
    if not named:
        raise ConfigError(f"{where}: the model has no parameter to train (see arch.freeze)")
    component = config.settings.optimizer
    if component is not None and component.loss:
        of_loss = []
        if isinstance(loss, torch.nn.Module):
            of_loss = _trainable(loss, "loss.", where)
        if not of_loss:
            raise ConfigError(f"{where}.loss: the loss has no parameter to train")
        named += of_loss
    return named


def _trainable(
    network: "torch.nn.Module", prefix: str, where: str
) -> "list[tuple[str, torch.nn.Parameter]]":
    """The parameters of a network that are to be trained, with their names."""
    import torch

    named = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if torch.nn.parameter.is_lazy(parameter):
            what = "the model's lazy modules have no weights yet"
            raise ConfigError(f"{where}: {what}: give it a batch in its constructor")
        named.append((prefix + name, parameter))
    return named


def init_scheduler(
    config: Factory, optimizer: "torch.optim.Optimizer", batches: int, *own: ModuleType
) -> Any:
    """The learning-rate scheduler of the config, or None.

    One that has `total_steps`, and is not told its length, gets that of the run.

    Args:
        config: the config.
        optimizer: whose rates it changes.
        batches: in one pass over the training data.
        own: modules of the project's that have schedulers, too; they come before torch's.

    Raises:
        ConfigError: its length or its mode contradicts the run's.
    """
    from torch.optim import lr_scheduler as schedulers

    component = config.settings.lr_scheduler
    if component is None or component.type is None:
        return None
    modules = (*own, schedulers)
    steps = _steps(config, component, batches)
    given = {}
    if _has_open_length(config, component, component.type, modules):
        given["total_steps"] = steps
    _refuse_typed_rate(config, component.type)
    _refuse_rates_of_groups(config, component)
    scheduler = config.init_obj("lr_scheduler", modules, optimizer, **given)
    where = f"{config.where('lr_scheduler')}: lr_scheduler"
    if not isinstance(scheduler, schedulers.LRScheduler):
        scheduler = _counted(scheduler, component.interval, where)
    if isinstance(scheduler, schedulers.ReduceLROnPlateau):
        _check_plateau(config, component, scheduler.mode, where)
    _check_rates(optimizer, where)
    if hasattr(scheduler, "total_steps") and scheduler.total_steps != steps:
        made = f"{component.type} is made for {scheduler.total_steps} steps"
        needed = f"but the run takes {steps} (one every {component.interval})"
        hint = 'leave total_steps, epochs and steps_per_epoch out, or set "interval"'
        raise ConfigError(f"{where}: {made}, {needed}: {hint}")
    return scheduler


def _counted(schedule: Any, interval: str, where: str) -> Any:
    """A schedule that is none of torch's, as one that counts its steps.

    Raises:
        ConfigError: it would not step at this interval.
    """
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    from machinery.config.several import counted

    by_update = interval == "step"
    if isinstance(getattr(schedule, "lr_scheduler", None), ReduceLROnPlateau):  # of timm
        what = f"the state of a {type(schedule).__name__} leaves out its counts"
        hint = "no resume could be exact: take ReduceLROnPlateau, which torch has"
        raise ConfigError(f"{where}: {what}: {hint}")
    if getattr(schedule, "t_in_epochs", not by_update) == by_update:  # of timm
        other = "step"
        if by_update:
            other = "epoch"
        what = f"a {type(schedule).__name__} with t_in_epochs {str(by_update).lower()}"
        raise ConfigError(f'{where}: {what} wants "interval": "{other}"')
    return counted(schedule, by_update)


def _steps(config: Factory, component: LRScheduler, batches: int) -> int:
    """How often the run steps its scheduler."""
    trainer = config.settings.trainer
    if trainer.epochs is None:
        return 0
    if component.interval == "epoch":
        return trainer.epochs
    if trainer.len_epoch is not None:
        batches = trainer.len_epoch
    return trainer.epochs * math.ceil(batches / trainer.accumulate)


def _has_open_length(
    config: Factory, component: LRScheduler, type_name: str, modules: Modules
) -> bool:
    """Whether the scheduler takes the length of a run, and the config does not say it."""
    kind = find(modules, type_name, config.source, ("lr_scheduler",))
    return "total_steps" in accepted(kind).types and component.args.keys().isdisjoint(_LENGTHS)


def _refuse_typed_rate(config: Factory, type_name: str) -> None:
    """Refuse a learning rate from the command line that the scheduler would overwrite."""
    rate = config.where("optimizer", "args", "lr")
    name = type_name.rpartition(".")[2]
    if name in _OWN_RATES and is_set(rate):
        what = f"the learning rate follows {name}: set lr_scheduler.args.max_lr of a new run"
        raise ConfigError(f"{rate}: {what}")


def _refuse_rates_of_groups(config: Factory, component: LRScheduler) -> None:
    """Refuse learning rates of groups that the scheduler would overwrite with one for all."""
    optimizer = config.settings.optimizer
    name = str(component.type).rpartition(".")[2]
    if optimizer is None or name not in _OWN_RATES:
        return
    if isinstance(component.args.get("max_lr"), list):
        return
    for index, group in enumerate(optimizer.groups):
        path: tuple[str | int, ...] = ("optimizer", "groups", index)
        if "lr" in (group.model_extra or {}):
            path = (*path, "lr")
        if group.type is not None or path[-1] == "lr":
            where = f"{config.where(*path)}: {dotted(path)}"
            what = f"the learning rate follows {name}"
            raise ConfigError(f"{where}: {what}: give max_lr as a list: {_ORDER}")


def _check_plateau(config: Factory, component: LRScheduler, mode: str, where: str) -> None:
    """Refuse a ReduceLROnPlateau that does not judge what the trainer monitors, once an epoch."""
    monitor = config.settings.trainer.monitor
    if component.interval != "epoch":
        raise ConfigError(f'{where}: ReduceLROnPlateau judges epochs: "interval": "epoch"')
    if monitor != "off" and not monitor.startswith(f"{mode} "):
        wanted = f'watches trainer.monitor "{monitor}": set its "mode" to "{monitor.split()[0]}"'
        raise ConfigError(f'{where}: ReduceLROnPlateau with mode "{mode}" {wanted}')


def _check_rates(optimizer: "torch.optim.Optimizer", where: str) -> None:
    """Refuse learning rates that are none."""
    try:
        rates = [float(group["lr"]) for group in optimizer.param_groups]
    except OverflowError:  # an integer of hundreds of digits
        raise ConfigError(f"{where}: makes learning rates of inf") from None
    for rate in rates:
        if not 0 <= rate < math.inf:
            shown = ", ".join(f"{each:.3g}" for each in rates)
            raise ConfigError(f"{where}: makes learning rates of {shown}")
