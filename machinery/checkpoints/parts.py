"""What a trainer holds: the parts that a checkpoint saves, and the networks, wherever among its attributes they are."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from machinery.update.runtime import unwrap


class Held(NamedTuple):
    """A trainer as a checkpoint knows it."""

    model: nn.Module
    #: The other objects that have a state, by name, the optimizer among them.
    parts: dict[str, Any]
    #: What must be the same for a run to go on exactly: the seed, the data, and inside an epoch the batches.
    fixed: dict[str, Any]


def held_by(trainer: Any) -> Held:
    """What a trainer holds, of the template or of the user's own."""
    model = unwrap(trainer.model)
    parts: dict[str, Any] = {}
    for name, value in _objects(trainer):
        part = unwrap(value) if isinstance(value, nn.Module) else value
        stateful = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
        stateful &= name not in (
            "data_loader",
            "valid_data_loader",
        )  # which are read up to the place
        if stateful and all(
            part is not other for other in (model, *parts.values(), *trainer.metric_ftns)
        ):
            parts[name] = part
    for name, part in [
        pair for pair in parts.items() if isinstance(pair[1], LRScheduler)
    ]:  # one may hold another
        parts |= {
            f"{name}.{inner}": value
            for inner, value in vars(part).items()
            if isinstance(value, LRScheduler)
        }
    loader = getattr(trainer, "data_loader", None)
    fixed = {
        name: getattr(loader, name, None) for name in ("validation_split", "batch_size", "shuffle")
    }
    fixed |= {"seed": trainer.seed, "samples": getattr(loader, "n_samples", None)}
    fixed |= {
        "accumulate": getattr(trainer, "accumulate", None),
        "batches": getattr(trainer, "len_epoch", None),
    }
    fixed["metrics"] = [metric.__name__ for metric in trainer.metric_ftns]
    return Held(model, parts, fixed)


def state_of(part: Any) -> dict[str, Any]:
    """The state of a part, without the schedulers inside one, which are parts, too."""
    return {
        name: value
        for name, value in part.state_dict().items()
        if not isinstance(value, LRScheduler)
    }


def networks(trainer: object) -> list[nn.Module]:
    """The networks of a trainer, its loss if it is one, and its metrics that are."""
    return [value for _, value in _objects(trainer) if isinstance(value, nn.Module)]


def _objects(trainer: object) -> list[tuple[str, Any]]:
    """The attributes with their names, and what is in lists, tuples and dicts among them."""
    found: list[tuple[str, Any]] = []

    def visit(prefix: str, items: Iterable[tuple[Any, Any]]) -> None:
        for name, value in items:
            if isinstance(value, dict | list | tuple):
                visit(
                    f"{prefix}{name}.",
                    value.items() if isinstance(value, dict) else enumerate(value),
                )
            else:
                found.append((f"{prefix}{name}", value))

    visit("", vars(trainer).items())
    return found
