"""What a trainer was when it was built, and what of it has changed under way."""

from typing import Any

import torch

from machinery.checkpoints.fitting import Groups, group_problems
from machinery.checkpoints.parts import Held, class_of
from machinery.checkpoints.untrained import networks_of
from machinery.checkpoints.weights import mismatches, weights_of, weights_problems


class Built:
    """A trainer as it was built, as a continued run will build it again.

    Args:
        held: what it held then.
    """

    def __init__(self, held: Held) -> None:
        self._weights = {name: weights_of(part) for name, part in networks_of(held).items()}
        self._classes = {name: class_of(part) for name, part in held.parts.items()}
        self._groups = {}
        self._steps = {}
        for name, part in held.parts.items():
            self._steps[name] = getattr(part, "total_steps", None)
            if isinstance(part, torch.optim.Optimizer):
                self._groups[name] = _sizes(part.param_groups)

    def changes(self, held: Held) -> list[str]:
        """What has changed since, such that a checkpoint of now would not fit, as lines."""
        lines = [f"attributes {line}" for line in mismatches(self._classes, held.parts)]
        for name, network in networks_of(held).items():
            if name in self._weights:
                found = weights_problems(self._weights[name], network.state_dict(), ordered=False)
                lines += [f"{name}: {line}" for line in found]
        for name, part in held.parts.items():
            if name in self._classes:
                lines += self._changed_part(name, part)
        return lines

    def _changed_part(self, name: str, part: Any) -> list[str]:
        """What has become another in one part."""
        kind = class_of(part)
        if kind != self._classes[name]:
            return [f"{name}: {self._classes[name]} -> {kind}"]
        steps = getattr(part, "total_steps", None)
        if steps != self._steps[name]:
            return [f"{name}: total_steps {self._steps[name]} -> {steps}"]
        if name in self._groups:
            return group_problems(name, _sizes(part.param_groups), self._groups[name])
        return []


def _sizes(groups: Groups) -> Groups:
    """What groups are told by, without the parameters themselves."""
    found = []
    for group in groups:
        kept: dict[str, Any] = {"params": [None] * len(group["params"])}
        if "param_names" in group:
            kept["param_names"] = group["param_names"]
        found.append(kept)
    return found
