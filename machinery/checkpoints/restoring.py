"""How a checkpoint goes back into what a trainer holds: all of it or, where something does not fit, nothing."""

import fnmatch
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from machinery.checkpoints import environment
from machinery.checkpoints.file import Content
from machinery.checkpoints.parts import Held
from machinery.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from parse_config import ConfigParser

State = dict[str, Any]
#: Schedulers that multiply the optimizer's own rate (NoneType: there is none), so that it may change under way. With
#: others it is the schedule's.
_STEPPED = (
    "NoneType",
    "StepLR",
    "MultiStepLR",
    "ExponentialLR",
    "ReduceLROnPlateau",
    "LinearLR",
    "ConstantLR",
)
SCALES_RATE = (*_STEPPED, "PolynomialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts")
NEW_RUN = "start a new run with -c and -r"
_logger = logging.getLogger("checkpoint")


def check_weights(config: "ConfigParser", model: nn.Module, state: Content) -> None:
    """Refuse weights that don't fit the model, before anything is loaded.

    Raises:
        CheckpointError: with the names that are missing, unexpected or of another shape.
    """
    if not state["state_dict"].keys() & model.state_dict().keys():  # those of a DataParallel
        state["state_dict"] = {
            name.removeprefix("module."): value for name, value in state["state_dict"].items()
        }
    advice = ""
    if config.launch.task == "fine-tune":
        for pattern in _skipped(config):
            if not fnmatch.filter([*model.state_dict(), *state["state_dict"]], pattern):
                raise ConfigError(
                    f"{config.where('arch', 'skip')}: arch.skip: {pattern!r} matches no weight"
                )
        kept, saved = (
            _without_skipped(config, model.state_dict()),
            _without_skipped(config, state["state_dict"]),
        )
        problems = mismatches(kept, saved)
        shapes = [
            {name: getattr(value, "shape", None) for name, value in weights.items()}
            for weights in (kept, saved)
        ]
        names = [
            name for name in {**kept, **saved} if shapes[0].get(name, 0) != shapes[1].get(name, 0)
        ]
        patterns = {name.rpartition(".")[0] + ".*" if "." in name else name for name in names}
        skip = sorted(patterns.union(_skipped(config)))
        advice = f'\n  to leave them out: "arch": {{"skip": {skip}}}'.replace("'", '"')
    else:
        problems = _weights_problems(model, state["state_dict"], config.launch.task == "continue")
        if state["arch"] != type(model).__name__:
            problems.insert(0, f"arch {state['arch']} -> {type(model).__name__}")
    if problems:
        raise CheckpointError(
            "\n  ".join([f"{config.resume} does not fit the model:", *problems]) + advice
        )


def _weights_problems(
    network: nn.Module, saved: Mapping[str, Any], ordered: bool = True
) -> list[str]:
    """How saved weights differ from a network's; in another order, an optimizer's state would go to the wrong ones."""
    now = network.state_dict()
    moved = [name for name, other in zip(now, saved, strict=False) if name != other and ordered]
    return mismatches(now, saved) or [f"in another order: {', '.join(moved[:10])}"][: len(moved)]


def _alike(a: Any, b: torch.Tensor) -> bool:
    kinds = [
        (each.shape, each.is_complex(), each.layout)
        for each in (a, b)
        if isinstance(each, torch.Tensor)
    ]
    return kinds[1:] == kinds[:1]


def mismatches(current: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Names that are missing, unexpected or of another shape, as lines for an error message; at most 10 of each."""
    tensors = {
        name: value
        for name, value in current.items()
        if name in saved and isinstance(value, torch.Tensor)
    }
    other = {
        name: list(value.shape) for name, value in tensors.items() if not _alike(saved[name], value)
    }
    shapes = [
        f"{name} {list(getattr(saved[name], 'shape', ()))} -> {shape}"
        for name, shape in other.items()
    ]
    missing, unexpected = (
        [name for name in a if name not in b] for a, b in ((current, saved), (saved, current))
    )
    kinds = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
    return [
        f"{kind}: {', '.join(names[:10])}{', …' if names[10:] else ''}"
        for kind, names in kinds.items()
        if names
    ]


def _skipped(config: "ConfigParser") -> list[str]:
    return config.settings.arch.skip if config.settings.arch else []


def _without_skipped(config: "ConfigParser", weights: Mapping[str, Any]) -> State:
    skipped = {name for pattern in _skipped(config) for name in fnmatch.filter(weights, pattern)}
    return {name: value for name, value in weights.items() if name not in skipped}


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
        changes = _changes(config, held.parts, state)
    held.model.load_state_dict(state["state_dict"])
    for part, part_state in parts:
        part.load_state_dict(part_state)
    if training:
        _set(held.parts, changes)
        for path, *change in config.launch.changes:
            _logger.info(
                f"{path} {' -> '.join(v if isinstance(v, str) else json.dumps(v) for v in change)}"
            )


def _fitting_parts(config: "ConfigParser", held: Held, state: Content) -> list[tuple[Any, Any]]:
    """The trainer's parts and their saved states, after checking that each fits."""
    states = {**state["states"], "optimizer": state["optimizer"]}
    parts, resume = held.parts, config.resume
    if config.launch.task == "evaluate":  # optimizers and progress don't matter then
        parts = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        fresh = [
            name for name, part in parts.items() if name not in states and [*part.parameters()]
        ]
        if fresh:
            raise CheckpointError(
                f"{resume} holds no weights of {', '.join(fresh)}: it was trained without"
            )
    elif state.get("converted"):
        fresh = [name for name in parts if name not in states]
        _logger.warning(
            f"{resume} was converted from the classic template: these start afresh: {', '.join(fresh)}"
        )
    else:
        saved = {name: None for name in states if name in parts or name != "optimizer"}
        problems = mismatches(dict.fromkeys(parts), saved)
        if problems:
            raise CheckpointError(
                f"{resume} holds other parts than this trainer:\n  " + "\n  ".join(problems)
            )
    parts = {name: part for name, part in parts.items() if name in states}
    problems = [
        line
        for name, part in parts.items()
        for line in _part_problems(name, part, state, states[name])
    ]
    if problems:
        raise CheckpointError(f"{resume} does not fit:\n  " + "\n  ".join(problems))
    return [(part, states[name]) for name, part in parts.items()]


def _part_problems(name: str, part: Any, state: Content, saved: State) -> list[str]:
    saved_class = state["classes"].get(name)
    if saved_class != type(part).__name__:
        return [f"{name}: {saved_class} -> {type(part).__name__}"]
    if isinstance(part, nn.Module):
        return [f"{name}: {line}" for line in _weights_problems(part, saved)]
    if isinstance(part, torch.optim.Optimizer):
        groups = (part.param_groups, saved["param_groups"])
        by_name = all("param_names" in group for each in groups for group in each)
        now, before = (
            [g["param_names"] if by_name else len(g["params"]) for g in each] for each in groups
        )
        return [f"{name}: parameters in its groups {before} -> {now}"] if now != before else []
    if hasattr(part, "total_steps") and part.total_steps != saved.get("total_steps"):
        change = f"made for {saved.get('total_steps')} steps cannot become one of {part.total_steps} under way"
        raise ConfigError(f"{name}: a {saved_class} {change}: keep the epochs, or {NEW_RUN}")
    return []


def _changes(config: "ConfigParser", parts: State, state: Content) -> list[State]:
    """What the config says otherwise than the checkpoint's did, also by leaving a key out.

    Args:
        parts: as the config makes them, with the values that count from now on.

    Returns:
        values for each group of the optimizer, to be set once its state is loaded.

    Raises:
        ConfigError: naming a key that cannot be changed under way.
    """
    scheduler, now = parts.get("lr_scheduler"), config.config
    before = now if state.get("converted") else state["config"]
    for key, value in _fixed(now).items():
        if _fixed(before)[key] != value:
            raise ConfigError(f"{key} cannot be changed under way: {NEW_RUN}")
    kind, changed = type(scheduler).__name__, []
    arguments = _changed_arguments("optimizer", before, now)
    for groups in zip(
        parts["optimizer"].param_groups, state["optimizer"]["param_groups"], strict=True
    ):
        new, old = ({**group, "lr": group.get("initial_lr", group.get("lr"))} for group in groups)
        differing = [key for key in arguments if new.get(key, key) != old.get(key)]
        for key in differing:
            scaled = kind in SCALES_RATE and not getattr(scheduler, "eta_min", 0)
            if key in ("lr", "momentum", "betas") and not scaled:
                raise ConfigError(
                    f"the {key} follows {kind}: a running schedule cannot take another; {NEW_RUN}"
                )
            # Flags, and momentum where there was none, want a state that is not there.
            unused = (
                key == "initial_accumulator_value" or type(parts["optimizer"]) is torch.optim.Rprop
            )
            if (
                key not in new
                or isinstance(new[key], bool)
                or unused
                or (key in ("lr", "momentum") and not old[key])
            ):
                raise ConfigError(
                    f"optimizer.args.{key} of a running optimizer cannot be changed: {NEW_RUN}"
                )
        changed.append(
            {key: (old[key], new[key]) if key == "lr" else new[key] for key in differing}
        )
    for key in _changed_arguments("lr_scheduler", before, now):
        raise ConfigError(
            f"lr_scheduler.args.{key} of a running {kind} cannot be changed: {NEW_RUN}"
        )
    return changed


def _set(parts: State, changed: list[State]) -> None:
    """Set in groups and scheduler what `_changes` has found: loading their states has undone it."""
    scheduler: Any = parts.get("lr_scheduler")
    for group, new in zip(parts["optimizer"].param_groups, changed, strict=True):
        before, rate = new.pop("lr", (1.0, 1.0))
        group.update(new)
        for key in (
            {"lr", "initial_lr"} & group.keys() if rate != before else ()
        ):  # the schedule stays where it is
            group[key] = rate if group[key] == before else group[key] * rate / before
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [group["initial_lr"] for group in parts["optimizer"].param_groups]


def _changed_arguments(section: str, *configs: Mapping[str, Any]) -> list[str]:
    """The arguments of a component that two configs give other values, or only one of them gives."""
    before, now = ((config.get(section) or {}).get("args", {}) for config in configs)
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def _fixed(config: Mapping[str, Any]) -> State:
    """What says which parameters are trained, and how a schedule goes."""
    arch, optimizer, scheduler = (
        config.get(name) or {} for name in ("arch", "optimizer", "lr_scheduler")
    )
    schedule = {
        "lr_scheduler.interval": scheduler.get("interval", "epoch"),
        "lr_scheduler.type": scheduler.get("type"),
    }
    return {
        "arch.freeze": arch.get("freeze") or [],
        "optimizer.type": optimizer.get("type"),
        **schedule,
    }


def _compare(config: "ConfigParser", held: Held, state: Content, now: State) -> None:
    """Refuse what would silently train on other data, warn of what may change bits."""
    saved, fixed = cast(State, state["progress"]), held.fixed
    other = [
        f"{name} {saved[name]} -> {fixed[name]}"
        for name in fixed
        if name in saved and saved[name] != fixed[name]
    ]
    if saved["step"] is None:  # between epochs these may change
        free = ("batch_size", "accumulate", "batches", "shuffle", "metrics")
        other = [line for line in other if line.split()[0] not in free]
        before, after = saved.get("batches"), fixed["batches"]
        if before and after and before != after and config.settings.trainer.len_epoch:
            place = (
                f"epoch {state['epoch'] + 1} begins at batch {state['epoch'] * after} of the data"
            )
            _logger.warning(
                f"{before} -> {after} batches in an epoch: {place}, not at {state['epoch'] * before}"
            )
    if other:
        raise CheckpointError(f"{config.resume} cannot be continued with {'; '.join(other)}")
    for line in environment.differences(state["environment"], now):
        _logger.warning(
            f"the continued run may differ{' in the last bits' * (line[:5] != 'data ')}: {line}"
        )
