"""What a config makes of parts that torch has no one class for: several optimizers that are one,
and a schedule that counts by itself.

It imports torch, so whoever builds such a part imports it then.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from machinery.config.values import in_words


class SeveralOptimizers(Optimizer):
    """Several optimizers as one: their groups are its groups, and their states its state.

    A schedule, clipping and a checkpoint see one optimizer.

    Args:
        optimizers: each with parameters of its own.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        groups = []
        for optimizer in optimizers:
            groups += optimizer.param_groups
        super().__init__([dict(group) for group in groups], {})
        self._optimizers = list(optimizers)
        self._adopt(groups)

    def _adopt(self, groups: list[dict[str, Any]]) -> None:
        """Let these groups, and one state, be those of all."""
        self.param_groups = groups
        first = 0
        for optimizer in self._optimizers:
            last = first + len(optimizer.param_groups)
            optimizer.param_groups = groups[first:last]
            optimizer.state = self.state
            first = last

    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Let each take its step."""
        assert closure is None, "none of several optimizers computes its loss again"
        for optimizer in self._optimizers:
            optimizer.step()

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on from a state of all; who holds a group keeps it."""
        groups = self.param_groups
        super().load_state_dict(state_dict)
        for group, loaded in zip(groups, self.param_groups, strict=True):
            group.clear()
            group.update(loaded)
        self._adopt(groups)


def as_one(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Several optimizers as one, whose class is called by all of theirs."""
    names = list(dict.fromkeys([type(optimizer).__name__ for optimizer in optimizers]))
    kind = type("And".join(names), (SeveralOptimizers,), {"__module__": __name__})
    return kind(optimizers)


def keeps_its_state(kind: type) -> bool:
    """Whether an optimizer has its state where torch's have it, and no modes."""
    has_modes = callable(getattr(kind, "train", None)) and callable(getattr(kind, "eval", None))
    own = {"state_dict", "load_state_dict", "zero_grad"}
    for each in kind.__mro__:
        if each is Optimizer:
            break
        if own & vars(each).keys():
            return False
    return not has_modes and kind.__name__ != "LBFGS"


class CountedSchedule:
    """A schedule that is told how many steps are done, as timm's are, as one that counts them.

    Args:
        schedule: with `step`, `state_dict` and `load_state_dict`.
        by_update: it steps with each update of the weights, by its `step_update` if it has one.
    """

    #: It may want the number that judges an epoch.
    judges = True

    def __init__(self, schedule: Any, by_update: bool) -> None:
        self.schedule = schedule
        self._steps = 0
        self._step = schedule.step
        if by_update and hasattr(schedule, "step_update"):
            self._step = schedule.step_update
        self._takes = list(inspect.signature(self._step).parameters)

    def step(self, value: float | None = None) -> None:
        """Count a step.

        Args:
            value: the number that judges the epoch.
        """
        self._steps += 1
        arguments: dict[str, Any] = {}
        for name in self._takes:
            if name in ("epoch", "num_updates"):
                arguments[name] = self._steps
            elif name in ("metric", "metrics"):
                arguments[name] = value
        self._step(**arguments)

    def state_dict(self) -> dict[str, Any]:
        """The count, and the schedule's own state."""
        return {"steps": self._steps, "schedule": self.schedule.state_dict()}

    def nonsense(self, state_dict: Mapping[str, Any]) -> str:
        """What in a saved state is none that this one could have had; empty if there is nothing.

        A schedule may put all that it is given into its attributes.
        """
        steps = state_dict.get("steps")
        if not isinstance(steps, int) or not 0 <= steps < 2**62:
            return f"steps is {in_words(steps)}"
        given = state_dict.get("schedule")
        if not isinstance(given, Mapping):
            return "schedule is no object"
        for key in given.keys() - self.schedule.state_dict().keys():
            if not isinstance(key, str) or hasattr(self.schedule, key):
                return f"schedule has {in_words(key)}, which is no state of it"
        return ""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._steps = state_dict["steps"]
        self.schedule.load_state_dict(state_dict["schedule"])


def counted(schedule: Any, by_update: bool) -> CountedSchedule:
    """A schedule that counts; its class is called as that of the schedule."""
    kind = type(type(schedule).__name__, (CountedSchedule,), {"__module__": __name__})
    return kind(schedule, by_update)
