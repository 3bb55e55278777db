"""What a trainer of the user's own changes and no checkpoint holds, or what a resume does twice."""

import logging
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from machinery.checkpoints.parts import Held, state_of

_logger = logging.getLogger("trainer")
_PLAIN = (bool, int, float, complex, str, bytes, np.generic)
_CONTAINERS = (list, tuple, set, frozenset, deque)
_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
#: What is larger, in numbers, is not looked at.
_LARGE = 1_000_000
#: So many names are told.
_TOLD = 3


class OwnValues:
    """Watches the plain values among the attributes of a trainer: counters, lists, tensors.

    Args:
        known: the names of the template's own attributes.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = set(known)
        self._at_start: dict[str, bytes] = {}
        self._before_epoch: dict[str, bytes] = {}
        #: What changes between the start of an epoch and its first batch.
        self.changed_twice: list[str] = []
        self._told = False

    def begin(self, attributes: Mapping[str, Any]) -> None:
        """The training begins: what the constructor makes is made again when it is continued."""
        self._at_start = self._values(attributes)

    def begin_epoch(self, held: Held) -> None:
        """An epoch begins; a method of the user's own may do something before its batches."""
        self._before_epoch = _small_states(held)
        self.changed_twice = []

    def begin_batches(self, held: Held) -> None:
        """The batches of the epoch begin."""
        now = _small_states(held)
        before = self._before_epoch
        self.changed_twice = [name for name in now if now[name] != before.get(name)]

    def warn(self, attributes: Mapping[str, Any], inside: bool) -> None:
        """Tell, where a checkpoint is written, what it does not hold, and what will be done again.

        Args:
            inside: it is one inside an epoch.
        """
        self._warn_of_unsaved(attributes)
        if inside and self.changed_twice:
            what = f"_train_epoch changes {_listed(self.changed_twice)} before its first batch"
            hint = "and does so again where the run goes on inside this epoch: let it depend on"
            _logger.warning(f"{what}, {hint} the epoch alone")

    def _warn_of_unsaved(self, attributes: Mapping[str, Any]) -> None:
        """Tell once of values that have changed, and that no checkpoint holds."""
        if self._told:
            return
        changed = []
        for name, value in self._values(attributes).items():
            # What is made on the way is made again on the way.
            if name in self._at_start and self._at_start[name] != value:
                changed.append(name)
        if changed:
            self._told = True
            what = f"no checkpoint holds what has changed of the trainer: {_listed(changed)}"
            hint = "an object with state_dict and load_state_dict, or a buffer of a network, is"
            _logger.warning(f"{what}; a continued run begins with it anew ({hint} saved)")

    def _values(self, attributes: Mapping[str, Any]) -> dict[str, bytes]:
        """The plain values of the user's own, each as bytes."""
        found = {}
        for name, value in attributes.items():
            if name not in self._known and _size(value) <= _LARGE:
                found[name] = _as_bytes(value)
        return found


def _as_bytes(value: Any) -> bytes:
    """A value as bytes that depend on its numbers alone: a tensor is pickled as it is stored."""
    return pickle.dumps(tree_map(_numbers, value))


def _numbers(value: Any) -> Any:
    """The numbers of a tensor; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    dense = value.detach().cpu()
    if dense.layout != torch.strided:
        dense = dense.to_dense()
    return str(value.dtype), tuple(value.shape), dense.reshape(-1).tolist()


def _size(value: Any) -> float:
    """How many numbers a value holds; infinity if it is no plain one."""
    if value is None or isinstance(value, _PLAIN):
        return 1
    if isinstance(value, nn.Parameter):  # some network's or optimizer's
        return float("inf")
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.size
    if type(value) in _CONTAINERS:
        return sum(map(_size, value))
    if type(value) in _MAPPINGS:
        return sum(map(_size, value.values()))
    return float("inf")


def _small_states(held: Held) -> dict[str, bytes]:
    """The states of what is no network, and of optimizers their options, each as bytes."""
    found = {}
    for name, part in held.parts.items():
        if isinstance(part, nn.Module):
            continue
        if isinstance(part, Optimizer):
            state: Any = []
            for group in part.param_groups:
                state.append({key: group[key] for key in group if key != "params"})
        else:
            state = state_of(part)
        if _size(state) <= _LARGE:
            found[name] = _as_bytes(state)
    return found


def _listed(names: list[str]) -> str:
    """Some names, the first of them."""
    shown = ", ".join(names[:_TOLD])
    if len(names) > _TOLD:
        shown += ", …"
    return shown
