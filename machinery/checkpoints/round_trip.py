"""Each state goes into a checkpoint and back into its owner once, before work depends on it.

It is loaded in place, as where a run goes on: a copy of an optimizer that holds another would not
be whole.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from machinery import distributed
from machinery.checkpoints.file import read_plain
from machinery.checkpoints.parts import Held, is_plain_optimizer, state_of
from machinery.checkpoints.structure import difference, size, structure
from machinery.errors import CheckpointError
from machinery.plain_data import plain
from machinery.update.runtime import is_sharded

#: Bytes of a state that makes the way at the start of a run, and of one at a save.
AT_START = 1 << 20
AT_SAVE = 1 << 28


class RoundTrips:
    """The states that have made the way, each by what it was made of."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}

    def check(self, held: Held, largest: float) -> None:
        """Send each state on the way that is new, or has other keys, types or shapes than it had.

        Of several processes, all have to ask.

        Args:
            largest: bytes of a state beyond which it stays.

        Raises:
            CheckpointError: a state does not come back, with the name of the part.
        """
        parts = {"model": held.model, **held.parts}
        new: list[str] = []
        for name, part in parts.items():
            if not _may_be_loaded(part):
                continue
            state = _plain_state(name, part)
            made_of = structure(state)
            if self._made.get(name) != made_of and size(state) <= largest:
                self._made[name] = made_of
                new.append(name)
        for name in _of_any(new):
            _make_round_trip(name, parts[name])


def _of_any(names: list[str]) -> Iterable[str]:
    """What any of the processes has named, in the same order in each."""
    found: dict[str, None] = {}
    for each in distributed.gathered(names):
        found.update(dict.fromkeys(each))
    return found


def _may_be_loaded(part: Any) -> bool:
    """Whether loading changes nothing but its state.

    A loader would begin elsewhere, and the template's own averages are of an epoch in hand.
    """
    if isinstance(part, nn.Module):
        tensors = [*part.parameters(), *part.buffers()]  # some may have no numbers, or none yet
        return not any(map(_is_elsewhere, tensors))
    if isinstance(part, torch.optim.Optimizer) and any(map(is_sharded, _weights_of(part))):
        return False
    if type(part).__module__.startswith("machinery."):
        return False
    return not hasattr(part, "__iter__")


def _is_elsewhere(tensor: torch.Tensor) -> bool:
    """Whether its numbers are not here, or not all of them, or not yet."""
    return is_lazy(tensor) or tensor.is_meta or is_sharded(tensor)


def _weights_of(optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _plain_state(name: str, part: Any) -> Any:
    """The state of a part as plain data."""
    try:
        return plain(state_of(part), f"the state of {name}")
    except CheckpointError:
        raise
    except Exception as error:  # of a state_dict of the user's
        raise _refused(name, part, f"state_dict: {_first_line(error)}") from error


def _make_round_trip(name: str, part: Any) -> None:
    """Write the state of a part, read it, load it, and compare."""
    state = _plain_state(name, part)
    file = io.BytesIO()
    torch.save(state, file)
    try:
        saved = _read(file)
        with _as_it_was(part):
            part.load_state_dict(_read(file))
            after = _plain_state(name, part)
    except Exception as error:  # whatever its owner makes of it
        raise _refused(name, part, f"load_state_dict: {_first_line(error)}") from error
    changed = difference(saved, after)
    if changed:
        what = f"load_state_dict does not bring back what state_dict gives: {changed}"
        raise _refused(name, part, what)
    if not is_plain_optimizer(part) and _devices(state) != _devices(after):
        what = "load_state_dict leaves tensors on the CPU that were on a device"
        raise _refused(name, part, what)


def _read(file: io.BytesIO) -> Any:
    file.seek(0)
    return read_plain(file)


def _devices(state: Any) -> list[torch.device]:
    """Where the tensors of a state are."""
    return [value.device for value in tree_leaves(state) if isinstance(value, torch.Tensor)]


@contextmanager
def _as_it_was(part: Any) -> Iterator[None]:
    """Afterwards an optimizer has its own groups and state again, which others may hold, too."""
    if not is_plain_optimizer(part):
        yield
        return
    state, groups = part.state, part.param_groups
    yield
    part.state, part.param_groups = state, groups


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _refused(name: str, part: Any, why: str) -> CheckpointError:
    return CheckpointError(f"no run could go on with {name} ({type(part).__name__}): {why}")
