"""Builds the optimizer and the scheduler, with the groups and lengths that only the program knows."""

import fnmatch
import math
from typing import TYPE_CHECKING, Any

from config import components
from utils.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from parse_config import ConfigParser


def freeze(model: "torch.nn.Module", patterns: list[str], place: str) -> None:
    """Switch off the training of the parameters that a pattern matches.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        for name in _matching(pattern, list(named), place):
            named[name].requires_grad_(False)


def _matching(pattern: str, names: list[str], place: str) -> list[str]:
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise ConfigError(f"{place}: {pattern!r} matches no parameter; there are: {there}")
    return found


def init_optimizer(config: "ConfigParser", model: "torch.nn.Module") -> "torch.optim.Optimizer":
    """The optimizer of the config over the trainable parameters of `model`, in groups as `param_groups` says.

    Raises:
        ConfigError: there is nothing to train, a pattern matches nothing, or the optimizer cannot train this model.
    """
    import torch

    component = config["optimizer"]
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    place = f"{config.where('optimizer')}: optimizer"
    if not named:
        raise ConfigError(f"{place}: the model has no parameter to train (see arch.freeze)")
    if component["type"] == "SparseAdam" and not any(getattr(module, "sparse", False) for module in model.modules()):
        raise ConfigError(f"{place}: SparseAdam needs sparse gradients, as of nn.Embedding(…, sparse=True)")
    if not component["param_groups"]:
        return config.init_obj("optimizer", torch.optim, list(named.values()))
    config.check(optimizer=torch.optim)
    rest, groups = dict(named), []
    one = torch.zeros(1, 1, requires_grad=True)
    components.build(getattr(torch.optim, component["type"]), ([one],), component["args"], f"{place}.args")
    for i, group in enumerate(component["param_groups"]):
        where = f"{config.where('optimizer', 'param_groups', i)}: optimizer.param_groups.{i}"
        options = {key: value for key, value in group.items() if key != "match"}
        patterns = [group["match"]] if isinstance(group["match"], str) else group["match"]
        names = {name for pattern in patterns for name in _matching(pattern, list(named), f"{where}.match")}
        groups.append({"params": [rest.pop(name) for name in named if name in names & rest.keys()], **options})
        # On its own first: torch checks the values of an optimizer's arguments, but not those of a group.
        components.build(getattr(torch.optim, component["type"]), ([one],), {**component["args"], **options}, where)
    return config.init_obj("optimizer", torch.optim, [{"params": list(rest.values())}, *groups])


def init_scheduler(config: "ConfigParser", optimizer: "torch.optim.Optimizer", batches: int) -> Any:
    """The learning-rate scheduler of the config, or None.

    A OneCycleLR that says nothing of its length gets that of the run (`total_steps`).

    Args:
        batches: in one pass over the training data.

    Raises:
        ConfigError: its length or its mode contradicts the run's.
    """
    import torch

    component, settings = config["lr_scheduler"], config["trainer"]
    if component is None:
        return None
    updates = -(-(settings["len_epoch"] or batches) // settings["accumulate"])
    steps = settings["epochs"] * (updates if component["interval"] == "step" else 1)
    lengths = {}
    place = f"{config.where('lr_scheduler')}: lr_scheduler"
    if (
        component["type"] == "OneCycleLR"
        and not {"total_steps", "epochs", "steps_per_epoch"} & component["args"].keys()
    ):
        lengths["total_steps"] = steps
    if component["type"] == "ReduceLROnPlateau":
        _check_plateau(config, place)
    if component["type"] in ("OneCycleLR", "CyclicLR") and config.where("optimizer", "args", "lr").startswith(
        "command"
    ):
        raise ConfigError(
            f"{config.where('optimizer', 'args', 'lr')}: the learning rate follows {component['type']}: "
            "set lr_scheduler.args.max_lr instead"
        )
    _try_out(config, optimizer, lengths, place)
    scheduler = config.init_obj("lr_scheduler", torch.optim.lr_scheduler, optimizer, **lengths)
    total = getattr(scheduler, "total_steps", steps)
    if total != steps:
        raise ConfigError(
            f"{place}: {component['type']} is made for {total} steps, but the run takes {steps} (one every "
            f'{component["interval"]}): leave total_steps, epochs and steps_per_epoch out, or set "interval"'
        )
    return scheduler


def _try_out(config: "ConfigParser", optimizer: "torch.optim.Optimizer", lengths: dict[str, int], place: str) -> None:
    """Take two steps of the scheduler with an optimizer like the real one: some values fail only then."""
    import torch

    one = torch.zeros(1, 1, requires_grad=True)
    kind: Any = type(optimizer)
    trial = kind([{**group, "params": [one.clone().detach()]} for group in optimizer.param_groups])
    trial._opt_called = True  # or torch would warn that its step comes first
    scheduler = config.init_obj("lr_scheduler", torch.optim.lr_scheduler, trial, **lengths)
    try:
        for _ in range(min(2, getattr(scheduler, "total_steps", 2))):
            scheduler.step(*([1.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    except Exception as error:
        raise ConfigError(f"{place}: {type(error).__name__} when stepped: {error}") from error
    rates = [float(group["lr"]) for group in trial.param_groups]
    if not all(0 <= rate < math.inf for rate in rates):
        raise ConfigError(f"{place}: makes learning rates of {', '.join(f'{rate:.3g}' for rate in rates)}")


def _check_plateau(config: "ConfigParser", place: str) -> None:
    monitor = config["trainer"]["monitor"]
    mode = config["lr_scheduler"]["args"].get("mode", "min")
    if config["lr_scheduler"]["interval"] != "epoch":
        raise ConfigError(f'{place}: ReduceLROnPlateau judges epochs: "interval": "epoch"')
    if monitor != "off" and not monitor.startswith(f"{mode} "):
        raise ConfigError(
            f'{place}: ReduceLROnPlateau with mode "{mode}" watches trainer.monitor "{monitor}": '
            f'set its "mode" to "{monitor.split()[0]}"'
        )
