"""What a trainer holds among its attributes: networks, and all that a checkpoint saves."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves, tree_map_only

from machinery import distributed
from machinery.config.factory import Factory
from machinery.errors import CheckpointError
from machinery.order.bare import BareIteration
from machinery.update.runtime import as_shared_state, is_sharded, local, unwrap

#: Attributes that have a state and are no parts: loaders are read up to the place.
_LOADERS = ("data_loader", "valid_data_loader")
#: What was left out of the training data: a part where samples that cannot be read may be.
LEFT_OUT = "data_loader.unreadable"
#: Where the stream of training data stands: a part where it says so.
STANDING = "data_loader.places"


class Held(NamedTuple):
    """A trainer as a checkpoint knows it."""

    model: nn.Module
    #: The other objects that have a state, by name, the optimizer among them.
    parts: dict[str, Any]
    #: What must be the same for a run to go on exactly: the seed, the data, and inside an epoch
    #: the batches.
    fixed: dict[str, Any]

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers among the parts."""
        return [part for part in self.parts.values() if isinstance(part, Optimizer)]

    @property
    def with_modes(self) -> list[Any]:
        """The optimizers that have modes, as networks have.

        Schedule-free ones train other weights than they give: their `train()` and `eval()` exchange
        them, once.
        """
        found = []
        for optimizer in self.optimizers:
            methods = (getattr(optimizer, "train", None), getattr(optimizer, "eval", None))
            if all(callable(method) for method in methods):
                found.append(optimizer)
        return found


def held(
    attributes: Mapping[str, Any],
    model: nn.Module,
    metrics: Sequence[Any],
    fixed: dict[str, Any],
) -> Held:
    """What is held in the attributes of a trainer.

    Args:
        attributes: their values by name; those in lists, tuples and dicts are found, too.
        model: whose weights are the checkpoint's `state_dict`.
        metrics: which are counted afresh in each epoch.
        fixed: as in `Held`.
    """
    bare = unwrap(model)
    parts: dict[str, Any] = {}
    known = {id(bare)} | {id(metric) for metric in metrics}
    known |= {id(loader) for loader in _own_loaders(attributes)}
    for name, value in _objects(attributes):
        part = unwrap(value) if isinstance(value, nn.Module) else value
        if id(part) in known or not _has_state(part):
            continue
        known.add(id(part))
        parts[name] = part
    parts.update(_of_loader(attributes.get("data_loader")))
    for name, part in list(parts.items()):
        if isinstance(part, LRScheduler):  # one may hold another
            for inner, value in vars(part).items():
                if isinstance(value, LRScheduler):
                    parts[f"{name}.{inner}"] = value
    return Held(bare, parts, fixed)


def _of_loader(loader: Any) -> dict[str, Any]:
    """What was left out of the training data, and where its stream stands, as parts."""
    found = {}
    reading = getattr(loader, "unreadable", None)
    if _has_state(reading):
        found[LEFT_OUT] = reading
    if isinstance(loader, BareIteration) and loader.places is not None:
        found[STANDING] = loader.places
    return found


def trained(held: Held) -> dict[str, torch.Tensor]:
    """The trained weights of all networks, and what optimizers have come to know of weights."""
    found: dict[str, torch.Tensor] = {}
    found.update(_trained_weights("", held.model))
    for prefix, part in held.parts.items():
        if isinstance(part, nn.Module):
            found.update(_trained_weights(prefix, part))
        elif isinstance(part, Optimizer):
            for number, state in enumerate(tree_leaves(dict(part.state))):
                # What is no number of a weight, such as a count of steps, may be anything.
                if isinstance(state, torch.Tensor) and state.ndim and state.is_floating_point():
                    found[f"{prefix} state {number}"] = local(state)
    return found


def _trained_weights(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights of a network; a mask that is not trained may be infinite."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            found[f"{prefix}.{name}".removeprefix(".")] = local(parameter)
    return found


def begin_epoch(attributes: Mapping[str, Any], epoch: int) -> None:
    """Let the loaders of a trainer know of an epoch that begins, for loops of the user's own.

    Two of one name would draw alike: one that the trainer holds beside its own two is then called
    as its attribute is.
    """
    names = set()
    known = set()
    for loader in _own_loaders(attributes):
        if isinstance(loader, BareIteration):
            loader.begin_epoch(epoch, held=False)
            if loader.places is not None:
                loader.places.kept = attributes.get("accumulate", 1)
            names.add(loader.name)
            known.add(id(loader))
    for name, loader in _objects(attributes):
        if not isinstance(loader, BareIteration) or id(loader) in known:
            continue
        known.add(id(loader))
        loader.begin_epoch(epoch, held=True)
        if loader.name in names:
            what = f"the loader {name!r} draws by this name, since another is called"
            logging.getLogger("data_loader").info(f"{what} {loader.name!r}, too")
            loader.rename(name)
        names.add(loader.name)


def _own_loaders(attributes: Mapping[str, Any]) -> list[Any]:
    """The loaders that a trainer reads itself, from their beginning."""
    found: list[Any] = []
    for name in _LOADERS:
        loader = attributes.get(name)
        if isinstance(loader, dict):  # several sets
            found += loader.values()
        else:
            found.append(loader)
    return found


def fixed_facts(
    loader: Any, config: Factory, accumulate: int, batches: int, metrics: Sequence[Any]
) -> dict[str, Any]:
    """What must be the same for a run to go on exactly, as in `Held`.

    Args:
        loader: of the training data.
        config: of the run, which has its seed.
        accumulate, batches: batches in an update, and in an epoch.
        metrics: which have names.
    """
    chosen = {}
    if hasattr(loader, "choice"):
        chosen = loader.choice.facts()
    return {
        **chosen,
        "validation_split": getattr(loader, "validation_split", None),
        "batch_size": getattr(loader, "batch_size", None),
        "shuffle": getattr(loader, "shuffle", None),
        "seed": config.settings.seed,
        "seeded_by_script": config.script_seed is not None,
        "samples": getattr(loader, "n_samples", None),
        "accumulate": accumulate,
        "batches": batches,
        "metrics": [metric.__name__ for metric in metrics],
    }


def _has_state(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def state_of(part: Any) -> dict[str, Any]:
    """The state of a part, without the schedulers inside one, which are parts, too.

    Raises:
        CheckpointError: it is no dict.
    """
    state = part.state_dict()
    if not isinstance(state, Mapping):
        what = f"gives a {type(state).__name__}: a checkpoint holds dicts"
        raise CheckpointError(f"the state_dict of a {type(part).__name__} {what}")
    return {name: value for name, value in state.items() if not isinstance(value, LRScheduler)}


def class_of(part: Any) -> str:
    """The class of a part; of a lazy network, which becomes another, that one."""
    if isinstance(part, AveragedModel):  # as trainers of their own have had it, too
        return AveragedModel.__name__
    kind = getattr(part, "cls_to_become", None)
    if not isinstance(kind, type):
        kind = type(part)
    return kind.__name__


def is_plain_optimizer(part: Any) -> bool:
    """Whether it is an optimizer that loads as torch has it: into new groups and a new state."""
    if not isinstance(part, Optimizer):
        return False
    return type(part).load_state_dict is Optimizer.load_state_dict


def load_state(part: Any, state: dict[str, Any]) -> None:
    """Load the state of a part, no network; who holds a group of an optimizer keeps it.

    Args:
        part: of a trainer.
        state: whole; of several processes, its tensors may stand in a file.
    """
    if not distributed.alone():
        state = _in_memory(part, state)
    if not is_plain_optimizer(part):
        part.load_state_dict(state)
        return
    groups = part.param_groups
    part.load_state_dict(state)
    for group, loaded in zip(groups, part.param_groups, strict=True):
        group.clear()
        group.update(loaded)
    part.param_groups = groups


def _in_memory(part: Any, state: dict[str, Any]) -> dict[str, Any]:
    """A state in the memory of this process, of shared-out weights what belongs to its parts."""
    if isinstance(part, Optimizer):
        state = as_shared_state(part, state)

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if is_sharded(tensor) else tensor.clone()

    return tree_map_only(torch.Tensor, own, state)


def networks_in(attributes: Mapping[str, Any]) -> list[nn.Module]:
    """The networks of a trainer, its loss if it is one, and its metrics that are."""
    return [value for _, value in _objects(attributes) if isinstance(value, nn.Module)]


def _objects(attributes: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The attributes with their names, and what is in lists, tuples and dicts among them."""
    found: list[tuple[str, Any]] = []
    _visit("", attributes.items(), found)
    return found


def _visit(prefix: str, items: Iterable[tuple[Any, Any]], found: list[tuple[str, Any]]) -> None:
    """Add what is among items; no inner function, whose cycle would keep the attributes alive."""
    for name, value in items:
        if isinstance(value, dict):
            _visit(f"{prefix}{name}.", value.items(), found)
        elif isinstance(value, list | tuple):
            _visit(f"{prefix}{name}.", enumerate(value), found)
        else:
            found.append((f"{prefix}{name}", value))
