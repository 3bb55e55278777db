"""A model whose weights are shared out over the processes: torch's FSDP2 (`fully_shard`).

It is built and restored whole in each process, then shared out; a checkpoint holds it whole. What
stands in a process is a part of each weight, of its gradient and of the optimizer's state; a module
that is named has its weights whole while it is computed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from machinery import distributed
from machinery.errors import ConfigError
from machinery.update.shardable import check_weights, to_shard as to_shard

_WHERE = "trainer.strategy"
#: Stands where there is no batch.
_NONE = object()


def is_sharded(value: Any) -> bool:
    """Whether a tensor stands in several processes in parts; asked without importing DTensor."""
    return isinstance(value, torch.Tensor) and hasattr(value, "full_tensor")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that is in this process: all of it unless it is shared out."""
    if is_sharded(tensor):
        return cast(torch.Tensor, cast(Any, tensor).to_local())
    return tensor


def full(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor; all processes have to ask for it."""
    if is_sharded(tensor):
        return cast(torch.Tensor, cast(Any, tensor).full_tensor())
    return tensor


def whole(state: Any) -> Any:
    """A state with all of its tensors, in the memory of the main process.

    All processes have to ask; the others get nothing in the place of what is shared out.
    """

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        if not is_sharded(tensor):
            return tensor
        found = full(tensor.detach())
        if distributed.is_main():
            return found.cpu()
        return found.new_empty(0)

    return tree_map_only(torch.Tensor, gathered, state)


def like_shared(tensor: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """A tensor that is shared out as another, of which this process has a part on the CPU."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    shared: Any = tensor
    mesh = shared.device_mesh
    if mesh.device_type != "cpu":
        mesh = init_device_mesh("cpu", (distributed.size(),))
    return DTensor.from_local(
        part,
        mesh,
        shared.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def kind_of(module: nn.Module) -> type:
    """The class of a module as its author knows it: FSDP2 makes one of its own in its place."""
    kind = type(module)
    if len(kind.__bases__) == 2 and kind.__bases__[0].__name__ == "FSDPModule":
        return kind.__bases__[1]
    return kind


def shard(
    model: nn.Module, patterns: Sequence[str], optimizers: Sequence[Optimizer], average: Any
) -> Callable[[], AbstractContextManager[None]]:
    """Share a model out over the processes, with what optimizers and an average know of it.

    Args:
        model: whole, and the same in all of them.
        patterns: the names of modules that are shared out by themselves.
        optimizers: of it, or of others.
        average: of its weights; or None.

    Returns:
        The context in which gradients stay in this process.

    Raises:
        ConfigError: a weight cannot be shared out, or an optimizer could not go on with it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    apart = to_shard(model, patterns)
    check_weights(model, apart)
    before = dict(model.named_parameters(remove_duplicate=False))
    if not before:
        return nullcontext  # there is nothing to share out
    for optimizer in optimizers:
        _check(optimizer, {id(parameter) for parameter in before.values()})
    device = next(iter(before.values())).device
    mesh = init_device_mesh(device.type, (distributed.size(),))
    for module in apart:
        fully_shard(module, mesh=mesh)
    # By itself it would stay whole after an evaluation, and its parameters would be others then.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    after = dict(model.named_parameters(remove_duplicate=False))
    moved = {id(parameter): (parameter, after[name]) for name, parameter in before.items()}
    for optimizer in optimizers:
        _follow(optimizer, moved)
    if average is not None:
        _share_average(average.module, after)

    return partial(_apart, model)


@contextmanager
def _apart(model: Any) -> Iterator[None]:
    """Within it, gradients stay in this process."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def _check(optimizer: Optimizer, ours: set[int]) -> None:
    """Refuse an optimizer that could not go on with weights that are shared out."""
    name = type(optimizer).__name__
    held = []
    for group in optimizer.param_groups:
        held += [id(parameter) in ours for parameter in group["params"]]
    if not any(held):
        return
    if not all(held):
        what = f"{name} has parameters of the model and of another network, such as the loss"
        raise ConfigError(f"{_WHERE}: {what}: fsdp takes one optimizer for each")
    for key, value in vars(optimizer).items():
        if key in ("param_groups", "state", "defaults"):
            continue
        if isinstance(value, list) and any(isinstance(item, torch.Tensor) for item in value):
            raise ConfigError(f"{_WHERE}: {name} keeps a list of weights ({key}): fsdp has others")


def _follow(optimizer: Optimizer, moved: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Let an optimizer go on with the weights that are shared out, and share out its state."""
    for group in optimizer.param_groups:
        group["params"] = [
            moved.get(id(parameter), (parameter, parameter))[1] for parameter in group["params"]
        ]
        if group.get("fused") and not isinstance(optimizer, torch.optim.Adam):
            group["fused"] = False  # torch has no such kernel for weights that are shared out
    for before, after in moved.values():
        if before in optimizer.state:
            state = optimizer.state.pop(before)
            optimizer.state[after] = {key: _as(after, item) for key, item in state.items()}


def _as(parameter: Any, value: Any) -> Any:
    """What an optimizer knows of each number of a weight, shared out as that is."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def _share_average(average: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Share out an average of weights as these are; what has two names stays one."""
    shared: dict[int, nn.Parameter] = {}
    for name, parameter in list(average.named_parameters(remove_duplicate=False)):
        if id(parameter) not in shared:
            value = _as(weights[name], parameter.detach())
            shared[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
        path, _, last = name.rpartition(".")
        setattr(average.get_submodule(path), last, shared[id(parameter)])


def in_step(batches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Batches of an evaluation, as many in each process, and whether each counts.

    All processes gather a weight to compute with it: one that has no batch any more computes its
    last one again, and one that has had none computes another's.
    """
    own = iter(batches)
    last: Any = None
    begun = False
    while True:
        batch = next(own, _NONE)
        counts = batch is not _NONE
        if not any(distributed.gathered(counts)):
            return
        if not begun:
            first = distributed.gathered(batch if counts else None)
            last = next(each for each in first if each is not None)
            begun = True
        if counts:
            last = batch
        yield last, counts
