"""How a checkpoint goes back into what a trainer holds: all of it or, where something does not fit, nothing."""

import fnmatch
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.parts import Held
from utils import checkpoint, environment
from utils.content import Content
from utils.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from parse_config import ConfigParser

State = dict[str, Any]
#: Schedulers whose learning rates follow from their own settings, or from those of the schedulers inside.
OWNS_RATE = ("OneCycleLR", "CyclicLR", "SequentialLR", "ChainedScheduler")
_logger = logging.getLogger("checkpoint")


def check_weights(config: "ConfigParser", model: nn.Module, state: Content) -> None:
    """Refuse weights that don't fit the model, before anything is loaded.

    Raises:
        CheckpointError: with the names that are missing, unexpected or of another shape.
    """
    advice = ""
    if config.launch.task == "fine-tune":
        for pattern in config["arch"].get("skip") or []:
            if not fnmatch.filter([*model.state_dict(), *state["state_dict"]], pattern):
                raise ConfigError(f"{config.where('arch', 'skip')}: arch.skip: {pattern!r} matches no weight")
        kept, saved = _without_skipped(config, model.state_dict()), _without_skipped(config, state["state_dict"])
        problems = checkpoint.mismatches(kept, saved)
        names = [n for n in {**kept, **saved} if n not in kept or n not in saved or kept[n].shape != saved[n].shape]
        patterns = sorted({name.rpartition(".")[0] + ".*" if "." in name else name for name in names})
        advice = f'\n  to leave them out: "arch": {{"skip": {patterns}}}'.replace("'", '"')
    else:
        problems = checkpoint.mismatches(model.state_dict(), state["state_dict"])
        if state["arch"] != type(model).__name__:
            problems.insert(0, f"arch {state['arch']} -> {type(model).__name__}")
    if problems:
        lines = "\n  ".join(problems)
        raise CheckpointError(f"{config.resume} does not fit the model:\n  {lines}{advice}")


def _without_skipped(config: "ConfigParser", weights: Mapping[str, Any]) -> State:
    patterns = config["arch"].get("skip") or []
    return {
        name: value
        for name, value in weights.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def load(config: "ConfigParser", held: Held, state: Content, now: State) -> None:
    """Load the model and the other parts; in evaluation the networks only, for fine-tuning the model alone.

    Args:
        now: the environment of this process.

    Raises:
        CheckpointError: a part does not fit, or the run cannot be continued like this; nothing has been loaded then.
    """
    if config.launch.task == "fine-tune":
        held.model.load_state_dict(_without_skipped(config, state["state_dict"]), strict=False)
        _logger.info(f"weights from {config.resume}")
        return
    parts = _fitting_parts(config, held, state)
    training = config.launch.task != "evaluate"
    if training:
        _compare(config, held, state, now)
        _check_changes(config, held.parts, state)
    held.model.load_state_dict(state["state_dict"])
    for part, part_state in parts:
        part.load_state_dict(part_state)
    if training:
        _apply_changes(config, held.parts, state)


def _fitting_parts(config: "ConfigParser", held: Held, state: Content) -> list[tuple[Any, Any]]:
    """The trainer's parts and their saved states, after checking that each fits."""
    states = {**state["states"], "optimizer": state["optimizer"]}
    parts, resume = held.parts, config.resume
    if config.launch.task == "evaluate":  # optimizers and progress don't matter then
        parts = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        fresh = [name for name, part in parts.items() if name not in states and [*part.parameters()]]
        if fresh:
            raise CheckpointError(f"{resume} holds no weights of {', '.join(fresh)}: it was trained without")
        parts = {name: part for name, part in parts.items() if name in states}
    elif state.get("converted"):
        fresh = [name for name in parts if name not in states]
        _logger.warning(f"{resume} was converted from the classic template: these start afresh: {', '.join(fresh)}")
        parts = {name: part for name, part in parts.items() if name in states}
    else:
        saved = {name: None for name in states if name in parts or name != "optimizer"}
        problems = checkpoint.mismatches(dict.fromkeys(parts), saved)
        if problems:
            if ("ema" in parts) != ("ema" in states):
                problems.append("trainer.ema is there from a run's start or not at all: leave it as it was")
            raise CheckpointError(f"{resume} holds other parts than this trainer:\n  " + "\n  ".join(problems))
    problems = [line for name, part in parts.items() for line in _part_problems(name, part, state, states[name])]
    if problems:
        raise CheckpointError(f"{resume} does not fit:\n  " + "\n  ".join(problems))
    return [(part, states[name]) for name, part in parts.items()]


def _part_problems(name: str, part: Any, state: Content, saved: State) -> list[str]:
    saved_class = state["classes"].get(name)
    if saved_class != type(part).__name__:
        return [f"{name}: {saved_class} -> {type(part).__name__}"]
    if isinstance(part, nn.Module):
        return [f"{name}: {line}" for line in checkpoint.mismatches(part.state_dict(), saved)]
    if isinstance(part, torch.optim.Optimizer):
        return _optimizer_problems(name, part, saved)
    if hasattr(part, "total_steps") and part.total_steps != saved.get("total_steps"):
        raise ConfigError(
            f"{name}: a {saved_class} made for {saved.get('total_steps')} steps cannot become one of "
            f"{part.total_steps} under way: keep the epochs, or start a new run with -c and -r"
        )
    return []


def _optimizer_problems(name: str, part: torch.optim.Optimizer, saved: State) -> list[str]:
    """Groups of other sizes, and moments of other shapes: torch would load them silently."""
    sizes = [len(group["params"]) for group in part.param_groups]
    before = [len(group["params"]) for group in saved["param_groups"]]
    if sizes != before:
        return [f"{name}: parameters in its groups {before} -> {sizes}"]
    if isinstance(part, torch.optim.LBFGS):  # its state is flat
        return []
    parameters = [p for group in part.param_groups for p in group["params"]]
    numbers = [i for group in saved["param_groups"] for i in group["params"]]
    return [
        f"{name}: {key} of parameter {number}: {list(value.shape)} -> {list(parameter.shape)}"
        for parameter, number in zip(parameters, numbers, strict=True)
        for key, value in saved["state"].get(number, {}).items()
        if isinstance(value, torch.Tensor) and value.ndim and not _same_shape(value.shape, parameter.shape)
    ][:10]


def _same_shape(moment: torch.Size, parameter: torch.Size) -> bool:
    """Whether a moment belongs to a parameter; Adafactor's are sums over one dimension."""
    return len(moment) == len(parameter) and all(a in (b, 1) for a, b in zip(moment, parameter, strict=True))


def _changed(config: "ConfigParser", state: Content, section: str) -> State:
    """The arguments of a component that differ from those of the checkpoint."""
    before, now = ((values.get(section) or {}).get("args", {}) for values in (state["config"], config.config))
    return {key: value for key, value in now.items() if before.get(key) != value}


def _check_changes(config: "ConfigParser", parts: State, state: Content) -> None:
    """Refuse what cannot be changed under way.

    Raises:
        ConfigError: naming the key.
    """
    if state.get("converted"):
        return
    scheduler, groups = parts.get("lr_scheduler"), parts["optimizer"].param_groups
    for key in _changed(config, state, "optimizer"):
        if key not in groups[0]:
            raise ConfigError(f"optimizer.args.{key} of a running optimizer cannot be changed: start a new run")
    kind, new_run = type(scheduler).__name__, "start a new run with -c and -r"
    if kind in OWNS_RATE and "lr" in _changed(config, state, "optimizer"):
        raise ConfigError(f"the learning rate follows {kind}: a running schedule cannot take --lr; {new_run}")
    for key, value in _changed(config, state, "lr_scheduler").items():
        held = getattr(scheduler, key, None)
        if kind in OWNS_RATE or type(held) not in (int, float) or type(value) not in (int, float):
            raise ConfigError(f"lr_scheduler.args.{key} of a running {kind} cannot be changed: {new_run}")


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _apply_changes(config: "ConfigParser", parts: State, state: Content) -> None:
    """Give optimizer and scheduler what the command line changed; loading their states has undone that."""
    for path, old, new in config.launch.changes:
        _logger.info(f"{path} {_as_json(old)} -> {_as_json(new)} (command line)")
    scheduler, groups = parts.get("lr_scheduler"), parts["optimizer"].param_groups
    own = config["optimizer"].get("param_groups") or []
    before = (state["config"].get("optimizer") or {}).get("param_groups") or []
    for i, group in enumerate(groups):
        n = i - (len(groups) - len(own))
        # A group with a value of its own for a key keeps it.
        options, old = (own[n], before[n] if n < len(before) else {}) if n >= 0 else ({}, {})
        changed = {key: new for key, new in _changed(config, state, "optimizer").items() if key not in options}
        changed |= {key: new for key, new in options.items() if key != "match" and old.get(key) != new}
        group.update({key: tuple(new) if isinstance(new, list) else new for key, new in changed.items()})
        if "lr" in changed and "initial_lr" in group:
            group["initial_lr"] = changed["lr"]
        if scheduler is not None and "lr" in changed and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs[i] = changed["lr"]
    for key, value in _changed(config, state, "lr_scheduler").items():
        setattr(scheduler, key, value)


def _compare(config: "ConfigParser", held: Held, state: Content, now: State) -> None:
    """Refuse what would silently train on other data, warn of what may change bits."""
    saved, fixed = dict(state["progress"]), held.fixed
    other = [f"{name} {saved[name]} -> {fixed[name]}" for name in fixed if name in saved and saved[name] != fixed[name]]
    if saved["step"] is None:  # between epochs these may change
        other = [line for line in other if line.split()[0] not in ("batch_size", "accumulate", "batches")]
    if other:
        raise CheckpointError(f"{config.resume} cannot be continued with {'; '.join(other)}")
    for line in environment.differences(state["environment"], now):
        _logger.warning(f"the continued run may differ in the last bits: {line}")
