"""How a checkpoint goes back into a trainer: all of it or, where something does not fit, nothing."""

import fnmatch
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from utils import checkpoint, environment, run_folder
from utils.errors import CheckpointError, ConfigError
from utils.runtime import unwrap

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer
    from parse_config import ConfigParser

State = dict[str, Any]
#: Schedulers that set the learning rate from their own settings at every step.
OWNS_RATE = ("OneCycleLR", "CyclicLR")
_logger = logging.getLogger("checkpoint")


def stateful(trainer: "BaseTrainer") -> dict[str, Any]:
    """The trainer's attributes that have a state, by name, without the model; also in lists, tuples and dicts."""
    found: dict[str, Any] = {}
    seen = {id(unwrap(trainer.model))}

    def visit(name: str, value: Any) -> None:
        value = unwrap(value) if isinstance(value, nn.Module) else value
        if isinstance(value, dict | list | tuple):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                visit(f"{name}.{key}", item)
        elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict") and id(value) not in seen:
            seen.add(id(value))
            found[name] = value

    for name, value in vars(trainer).items():
        if name not in ("model", "config"):
            visit(name, value)
    return found


def fixed(trainer: "BaseTrainer") -> State:
    """What must be the same for a run to go on exactly: the seed, the data, and inside an epoch the batches."""
    loader = getattr(trainer, "data_loader", None)
    return {
        "seed": trainer.seed,
        "samples": getattr(loader, "n_samples", None),
        "validation_split": getattr(loader, "validation_split", None),
        "batch_size": getattr(loader, "batch_size", None),
        "accumulate": getattr(trainer, "accumulate", None),
        "batches": getattr(trainer, "len_epoch", None),
    }


def check_weights(config: "ConfigParser", model: nn.Module, state: State) -> None:
    """Refuse weights that don't fit the model, before anything is loaded.

    Raises:
        CheckpointError: with the names that are missing, unexpected or of another shape.
    """
    advice = ""
    if config.fine_tune:
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


def load_weights(trainer: "BaseTrainer", state: State) -> None:
    """Load the model alone, without what `arch.skip` leaves out."""
    unwrap(trainer.model).load_state_dict(_without_skipped(trainer.config, state["state_dict"]), strict=False)
    _logger.info(f"weights from {trainer.config.resume}")


def load_all(trainer: "BaseTrainer", state: State) -> None:
    """Load the model and every part of the trainer; in evaluation, the networks only.

    Raises:
        CheckpointError: a part does not fit, or the run cannot be continued like this; nothing has been loaded then.
    """
    parts = _fitting_parts(trainer, state)
    if not trainer.config.evaluating:
        _compare(trainer, state)
    unwrap(trainer.model).load_state_dict(state["state_dict"])
    for part, part_state in parts:
        part.load_state_dict(part_state)
    if not trainer.config.evaluating:
        _apply_changes(trainer)


def _fitting_parts(trainer: "BaseTrainer", state: State) -> list[tuple[Any, Any]]:
    """The trainer's parts and their saved states, after checking that each fits."""
    states = {**state["states"], "optimizer": state["optimizer"]}
    parts = {name: part for name, part in stateful(trainer).items() if part is not None}
    resume = trainer.config.resume
    if trainer.config.evaluating:  # optimizers and progress don't matter then
        parts = {name: part for name, part in parts.items() if isinstance(part, nn.Module) and name in states}
    elif state.get("converted"):
        fresh = [name for name in parts if name not in states]
        _logger.warning(f"{resume} was converted from the classic template: these start afresh: {', '.join(fresh)}")
        parts = {name: part for name, part in parts.items() if name in states}
    else:
        saved = {name: None for name in states if name in parts or name != "optimizer"}
        problems = checkpoint.mismatches(dict.fromkeys(parts), saved)
        if problems:
            raise CheckpointError(f"{resume} holds other parts than this trainer:\n  " + "\n  ".join(problems))
    problems = [line for name, part in parts.items() for line in _part_problems(name, part, state, states[name])]
    if problems:
        raise CheckpointError(f"{resume} does not fit:\n  " + "\n  ".join(problems))
    return [(part, states[name]) for name, part in parts.items()]


def _part_problems(name: str, part: Any, state: State, saved: State) -> list[str]:
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


def _apply_changes(trainer: "BaseTrainer") -> None:
    """Give the optimizer what the command line changed of its arguments; loading its state has undone that."""
    for path, old, new in trainer.config.changes:
        _logger.info(f"{path} {old} -> {new} (command line)")
        section, _, key = path.rpartition(".")
        if section != "optimizer.args":
            continue
        scheduler = getattr(trainer, "lr_scheduler", None)
        if key == "lr" and type(scheduler).__name__ in OWNS_RATE:
            raise ConfigError(
                f"the learning rate follows {type(scheduler).__name__}: a running cycle cannot take --lr; "
                "start a new run with lr_scheduler.args.max_lr"
            )
        # A group with a value of its own for the key keeps it.
        own = trainer.config["optimizer"].get("param_groups") or []
        groups = trainer.optimizer.param_groups
        shared = [i for i in range(len(groups)) if i < len(groups) - len(own) or key not in own[i - len(groups)]]
        for i in shared:
            groups[i][key] = new
            if key == "lr" and "initial_lr" in groups[i]:
                groups[i]["initial_lr"] = new
        if key == "lr" and scheduler is not None and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [new if i in shared else rate for i, rate in enumerate(scheduler.base_lrs)]


def _compare(trainer: "BaseTrainer", state: State) -> None:
    """Refuse what would silently train on other data, warn of what may change bits."""
    saved, now = state["progress"], fixed(trainer)
    other = [f"{name} {saved[name]} -> {now[name]}" for name in now if name in saved and saved[name] != now[name]]
    if saved["step"] is None:  # between epochs these may change
        other = [line for line in other if line.split()[0] not in ("batch_size", "accumulate", "batches")]
    if other:
        raise CheckpointError(f"{trainer.config.resume} cannot be continued with {'; '.join(other)}")
    device = next((parameter.device for parameter in trainer.model.parameters()), None)
    for line in environment.differences(state.get("environment", {}), environment.describe(device)):
        _logger.warning(f"the continued run may differ in the last bits: {line}")


def take_over(trainer: "BaseTrainer", state: State) -> None:
    """Make the run folder that of a run which stands at this checkpoint: later files aside, the best caught up."""
    current, folder = trainer.config.resume or Path(), trainer.config.save_dir
    _logger.info(f"resuming from {current}")
    for name in run_folder.set_aside_later(folder, current):
        _logger.warning(f"{name} is of a later time: renamed {name}.old")
    # A kill may have come between the epoch's file and the best.
    best = folder / run_folder.BEST
    is_best = trainer.monitor.best_epoch == state["epoch"] and state["progress"]["step"] is None
    if is_best and current != best and (checkpoint.damage(best) or checkpoint.load(best)["epoch"] != state["epoch"]):
        checkpoint.copy(current, best)
