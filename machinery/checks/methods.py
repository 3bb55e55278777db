"""The methods of a trainer of the user's own: those it needs, and those that nothing would call."""

import dis
import inspect
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

import torch

from machinery.config.checking import Checked
from machinery.errors import ConfigError

#: The doors of an update in earlier versions, and what stands in their place.
_OLD_DOORS = ("_apply", "_compute", "_record", "_grouped", "_stop_if_asked")
#: The template's own, which a method of another meaning would break.
_TAKEN = ("_apply_group", "_add_to_averages", "_computed", "_open_group", "_set_up", "_tracker")
_DOORS = """
    def _update(self, batches):
        with self.group(batches) as group:
            for batch in group:
                self.backward(self.compute(batch))
            group.step(self.optimizer)"""


def check_methods(
    own: type, template: type, criterion: Any, optimizer: Any, checked: Checked
) -> None:
    """Refuse a trainer that lacks a method, or whose methods go through doors that are gone.

    Args:
        own, template: the trainer's class, and the one whose methods it may have replaced.
        checked: the config.

    Raises:
        ConfigError: naming the method, or where there is one.
    """
    _check_needed_methods(own, template, criterion, optimizer, checked.settings.trainer.precision)
    scheduled = checked.settings.lr_scheduler
    by_step = scheduled is not None and scheduled.interval == "step"
    _check_doors(own, template, by_step)


def _check_needed_methods(
    own: type, template: type, criterion: Any, optimizer: Any, precision: str
) -> None:
    """Refuse a loss and an optimizer that only a trainer with methods of its own can use.

    Args:
        precision: in which it computes.
    """
    names = ("_forward", "compute", "_update", "_train_epoch")
    replaced = {name for name in names if _is_replaced(name, own, template)}
    if criterion is None and not replaced:
        raise ConfigError(
            "loss is missing: name one of model/loss.py, or give the trainer a _forward of its own"
        )
    steps_itself = "_update" in replaced or "_train_epoch" in replaced
    if isinstance(optimizer, torch.optim.LBFGS) and not steps_itself:
        what = "LBFGS computes its loss several times a step"
        raise ConfigError(f"{what}: set trainer.type=examples.lbfgs.trainer.LBFGSTrainer")
    if isinstance(optimizer, torch.optim.LBFGS) and precision == "fp16":
        what = "LBFGS computes its loss several times a step"
        raise ConfigError(f"trainer.precision: {what}: use bf16 or fp32")


def _check_doors(own: type, template: type, by_step: bool) -> None:
    """Refuse an update that goes through the doors of an earlier version.

    Args:
        by_step: the schedule steps after each update.
    """
    for kind in own.__mro__[: own.__mro__.index(template)]:
        for name, method in vars(kind).items():
            if name in _OLD_DOORS:
                what = f"{kind.__name__}.{name} would never be called"
                raise ConfigError(f"{what}: an update is written in _update:{_DOORS}")
            if name in _TAKEN:
                raise ConfigError(f"{kind.__name__}.{name}: the name is taken: choose another")
            if inspect.isfunction(method):
                code = inspect.unwrap(method).__code__
                _check_calls(f"{kind.__name__}.{name}", code, own_loop=name == "_train_epoch")
                if by_step and name == "_train_epoch":
                    _check_schedule(f"{kind.__name__}.{name}", code)


def _check_schedule(where: str, code: CodeType) -> None:
    """Refuse a loop of the user's own that leaves the schedule where it is."""
    used = _attributes_of_self(code)
    if not {"_after_update", "_schedule"} & used:
        what = "nothing steps the schedule: call self._after_update(len(batches)) after an update"
        raise ConfigError(f"{where}: {what}")


def _check_calls(where: str, code: CodeType, own_loop: bool) -> None:
    """Refuse a method that calls an old door, or that schedules an update a second time."""
    used = _attributes_of_self(code)
    own_loop = own_loop and "_after_update" not in used
    for door in _OLD_DOORS:
        if door in used:
            what = f"{where} uses self.{door}, which is gone"
            raise ConfigError(f"{what}: an update is written like this:{_DOORS}")
    if "_schedule" in used and "step" in code.co_consts and not own_loop:
        what = 'leave self._schedule("step", …) out: self._after_update(…) does it'
        raise ConfigError(f"{where}: {what}")
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            _check_calls(where, inner, own_loop)


def _attributes_of_self(code: CodeType) -> set[str]:
    """The attributes of `self` that a function uses."""
    found = set()
    before: Any = None
    for instruction in dis.get_instructions(code):
        if before == "self" and isinstance(instruction.argval, str):
            found.add(instruction.argval)
        before = instruction.argval
    return found


def loss_of(own: Any, template: type) -> Callable[[], Any]:
    """What gives the loss of a trainer as it is then; None if its `_forward` has one of its own.

    Args:
        own: the trainer.
        template: the class whose methods it may have replaced.
    """
    if _takes_criterion(type(own), template):
        return partial(getattr, own, "criterion")
    return partial(getattr, None, "criterion", None)


def _takes_criterion(own: type, template: type) -> bool:
    """Whether `_forward` is the template's, calls that, or some method names the criterion."""
    reached = True
    for kind in own.__mro__[: own.__mro__.index(template)]:
        for name, method in vars(kind).items():
            if not inspect.isfunction(method) or name == "__init__":
                continue
            if name == "_forward" and not reached:
                continue
            used = _names_in(inspect.unwrap(method).__code__)
            if "criterion" in used:
                return True
            if name == "_forward":
                reached = "_forward" in used
    return reached


def _names_in(code: CodeType) -> set[str]:
    """The attributes and globals that a function, and those within it, use."""
    found = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _names_in(inner)
    return found


def check_overrides(own: type, template: type, config: Any) -> None:
    """Refuse methods of a trainer of the user's own that nothing would call, and a foreign config.

    Raises:
        ConfigError: naming the method, or where the config's class is.
    """
    if not hasattr(config, "launch"):
        raise ConfigError(_foreign_config(own, config))
    for name in ("_save_checkpoint", "_resume_checkpoint"):
        if _is_replaced(name, own, template):
            what = "whatever attribute has a state_dict and a load_state_dict is saved and restored"
            raise ConfigError(f"{own.__name__}.{name} would never be called: leave it out; {what}")


def _foreign_config(own: type, config: Any) -> str:
    """That a config is no ConfigParser of this template's."""
    kind = type(config)
    what = f"{own.__name__} is given a {kind.__name__}"
    if kind.__name__ == "ConfigParser":
        what = f"{own.__name__} is given a ConfigParser of {inspect.getfile(kind)}"
    hint = "one of your own has to derive from that"
    return f"{what}, not this template's of parse_config.py: {hint}"


def _is_replaced(name: str, own: type, template: type) -> bool:
    return getattr(own, name) is not getattr(template, name)
