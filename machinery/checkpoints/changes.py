"""What the config of a continued run says otherwise than its checkpoint's, and how that is set."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from machinery.checkpoints.fitting import NEW_RUN
from machinery.errors import ConfigError

Config = Mapping[str, Any]
Group = dict[str, Any]
#: Schedulers that multiply the optimizer's own rate (NoneType: there is none), so that it may
#: change under way. With others it is the schedule's.
SCALES_RATE = (
    "NoneType",
    "LambdaLR",
    "StepLR",
    "MultiStepLR",
    "ExponentialLR",
    "ReduceLROnPlateau",
    "LinearLR",
    "ConstantLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
)


class Change(NamedTuple):
    """What one group of an optimizer gets, once its saved state is loaded."""

    #: The learning rate of the checkpoint's config, and that of now; equal if it stays.
    old_rate: float
    new_rate: float
    #: Other options.
    options: dict[str, Any]


def changes(
    optimizer: Any, scheduler: Any, saved: Config, before: Config, now: Config
) -> list[Change]:
    """What changes in each group of the optimizer, also by leaving a key out.

    Args:
        optimizer, scheduler: as the config makes them, with the values that count from now on.
        saved: the state of the optimizer.
        before, now: the configs.

    Raises:
        ConfigError: naming a key that cannot be changed under way.
    """
    arguments = _changed_arguments("optimizer", before, now)
    found = []
    # The state of an optimizer that holds others may have groups elsewhere.
    saved_groups = saved.get("param_groups", optimizer.param_groups)
    for group, saved_group in zip(optimizer.param_groups, saved_groups, strict=True):
        found.append(_group_change(arguments, group, saved_group, optimizer, scheduler))
    for key in _changed_arguments("lr_scheduler", before, now):
        kind = type(scheduler).__name__
        what = f"lr_scheduler.args.{key} of a running {kind}"
        raise ConfigError(f"{what} cannot be changed: {NEW_RUN}")
    return found


def _group_change(
    arguments: list[str], group: Group, saved: Group, optimizer: Any, scheduler: Any
) -> Change:
    """What changes in one group."""
    new = {**group, "lr": _base_rate(group)}
    old = {**saved, "lr": _base_rate(saved)}
    rates = (1.0, 1.0)
    options = {}
    for key in arguments:
        if key not in group and any(key in other for other in optimizer.param_groups):
            continue  # it is an option of another optimizer
        if new.get(key, key) == old.get(key):  # never equal where the group has no such option
            continue
        _check_schedule(key, scheduler)
        _check_state(key, new, old, optimizer)
        if key == "lr":
            rates = (old[key], new[key])
        else:
            options[key] = new[key]
    return Change(*rates, options)


def _base_rate(group: Group) -> Any:
    """The rate that a schedule starts from."""
    if "initial_lr" in group:
        return group["initial_lr"]
    return group.get("lr")


def _check_schedule(key: str, scheduler: Any) -> None:
    """Refuse what a running schedule decides."""
    if key not in ("lr", "momentum", "betas"):
        return
    kind = type(scheduler).__name__
    if kind not in SCALES_RATE or getattr(scheduler, "eta_min", False):
        follows = f"the {key} follows {kind}"
        raise ConfigError(f"{follows}: a running schedule cannot take another; {NEW_RUN}")


def _check_state(key: str, new: Group, old: Group, optimizer: Any) -> None:
    """Refuse what wants a state that is not there, or that was only used at the start."""
    if key not in new:
        possible = False
    elif isinstance(new[key], bool):
        possible = False
    elif key == "initial_accumulator_value" or type(optimizer) is torch.optim.Rprop:
        possible = False
    elif key in ("lr", "momentum"):
        possible = bool(old[key])  # there was none
    else:
        possible = True
    if not possible:
        what = f"optimizer.args.{key} of a running optimizer"
        raise ConfigError(f"{what} cannot be changed: {NEW_RUN}")


def apply_changes(found: list[Change], optimizer: Any, scheduler: Any) -> None:
    """Set what `changes` has found: loading the states has undone it."""
    for group, change in zip(optimizer.param_groups, found, strict=True):
        group.update(change.options)
        if change.old_rate == change.new_rate:
            continue
        for key in ("lr", "initial_lr"):
            if key not in group:
                continue
            if group[key] == change.old_rate:
                group[key] = change.new_rate
            else:  # the schedule stays where it is
                group[key] = group[key] * change.new_rate / change.old_rate
    if hasattr(scheduler, "base_lrs"):
        # Groups that were added later are not among those that it schedules.
        scheduled = optimizer.param_groups[: len(scheduler.base_lrs)]
        scheduler.base_lrs = [group["initial_lr"] for group in scheduled]


def _changed_arguments(section: str, before: Config, now: Config) -> list[str]:
    """The arguments of a component that have other values, or that only one config gives."""
    old = _component(before, section).get("args", {})
    new = _component(now, section).get("args", {})
    return [key for key in {**old, **new} if old.get(key) != new.get(key)]


def _component(config: Config, section: str) -> Mapping[str, Any]:
    """A component of a config; one that is null or missing is empty."""
    component = config.get(section)
    return {} if component is None else component


def check_fixed(before: Config, now: Config) -> None:
    """Refuse what changes which parts there are, what is trained, or how a schedule goes.

    Raises:
        ConfigError: naming a key that cannot be changed under way.
    """
    old = _fixed(before)
    for key, value in _fixed(now).items():
        if old[key] != value:
            raise ConfigError(f"{key} cannot be changed under way: {NEW_RUN}")


def _fixed(config: Config) -> dict[str, Any]:
    """What says which parts there are, what is trained, and how a schedule goes."""
    scheduler = _component(config, "lr_scheduler")
    return {
        "seed": config.get("seed"),
        "arch.freeze": _component(config, "arch").get("freeze") or [],
        "optimizer.type": _component(config, "optimizer").get("type"),
        "optimizer.groups": _component(config, "optimizer").get("groups") or [],
        "lr_scheduler.interval": scheduler.get("interval", "epoch"),
        "lr_scheduler.type": scheduler.get("type"),
        "trainer.ema": _component(config, "trainer").get("ema"),
    }
