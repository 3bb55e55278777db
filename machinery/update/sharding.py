"""A model whose weights are shared out over the processes: torch's FSDP2 (`fully_shard`).

It is built and restored whole in each process, then shared out; with `arch.init: "by_name"` it is
shared out before it has numbers. A checkpoint holds it whole. What stands in a process is a part of
each weight, of its gradient and of the optimizer's state; a module that is named has its weights
whole while it is computed.
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


def any_sharded(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether one of some tensors stands in several processes in parts."""
    return any(is_sharded(tensor) for tensor in tensors)


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


def like_shared(like: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """A tensor that is shared out as another, of which this process has a part, wherever it is."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    known = cast(Any, like)
    mesh = known.device_mesh
    if mesh.device_type != part.device.type:
        mesh = init_device_mesh(part.device.type, (distributed.size(),))
    places = known.placements
    return DTensor.from_local(
        part, mesh, places, run_check=False, shape=like.shape, stride=like.stride()
    )


def as_shared(like: torch.Tensor, value: Any) -> Any:
    """A whole tensor as another stands in this process: of one that is shared out, its part.

    Nobody waits for the other processes. The part has memory of its own, where the weights are.

    Args:
        like: the tensor whose place it takes; it may be without numbers.
        value: whole, and the same in all processes.

    Returns:
        `value` itself where `like` is not shared out, or has another shape.
    """
    if not is_sharded(like) or is_sharded(value) or not isinstance(value, torch.Tensor):
        return value
    if value.shape != like.shape:
        return value
    part = _own_part(like, value)
    where = cast(Any, like).device_mesh.device_type
    part = part.to(where, copy=True, memory_format=torch.contiguous_format)
    return like_shared(like, part)


def fill_part(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into another; into one that is shared out what belongs to this process.

    Args:
        tensor: of the same shape.
        value: whole, and the same in all processes.
    """
    if is_sharded(tensor):
        value = _own_part(tensor, value)
    local(tensor.detach()).copy_(value.detach())


def _own_part(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What belongs to this process of a whole tensor, in the memory of that."""
    known = cast(Any, like)
    mesh = known.device_mesh
    part = value.detach()
    for dim, placement in enumerate(known.placements):
        if placement.is_shard():
            part = _part(part, placement.dim, mesh.get_local_rank(dim), mesh.size(dim))
    assert part.shape == known.to_local().shape, "a weight is shared out in a way that is not known"
    return part


def _part(whole: torch.Tensor, dim: int, number: int, count: int) -> torch.Tensor:
    """Part `number` of `count` of a tensor, in pieces as `torch.chunk` makes them."""
    length = whole.shape[dim]
    each = -(-length // count)
    first = min(number * each, length)
    return whole.narrow(dim, first, min(each, length - first))


def as_shared_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The whole state of an optimizer as its weights stand in this process.

    Args:
        optimizer: that will go on from it.
        state: as its `state_dict` gives it where nothing is shared out.
    """
    weights = weights_in_order(optimizer)
    if not any_sharded(weights):
        return state
    numbers = []
    for group in state["param_groups"]:
        numbers += group["params"]
    shared = dict(state["state"])
    for number, weight in zip(numbers, weights, strict=True):
        if number in shared:
            known = shared[number]
            shared[number] = {key: as_shared(weight, value) for key, value in known.items()}
    return {**state, "state": shared}


def load_whole(network: nn.Module) -> None:
    """Let a network that is shared out take whole tensors in its `load_state_dict`."""
    for module in network.modules():
        module.register_load_state_dict_pre_hook(_take_parts)


def _take_parts(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put this process' parts in the place of whole tensors, for one module."""
    for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
        full_name = prefix + name
        if full_name in state:
            state[full_name] = as_shared(weight, state[full_name])


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
        model: whole, and the same in all of them; or shared out by `share_empty`.
        patterns: the names of modules that are shared out by themselves.
        optimizers: of it, or of others.
        average: of its weights; or None.

    Returns:
        The context in which gradients stay in this process.

    Raises:
        ConfigError: a weight cannot be shared out, or an optimizer could not go on with it.
    """
    before = dict(model.named_parameters(remove_duplicate=False))
    if not before:
        to_shard(model, patterns)
        return nullcontext  # there is nothing to share out
    ours = {id(parameter) for parameter in before.values()}
    if any_sharded(before.values()):
        for optimizer in optimizers:
            _is_of(optimizer, ours)  # or it is refused
            _unfuse(optimizer)
        return partial(_apart, model)
    apart = to_shard(model, patterns)
    check_weights(model, apart)
    for optimizer in optimizers:
        if _is_of(optimizer, ours):
            _check(optimizer)
    _share(model, apart, next(iter(before.values())).device.type)
    after = dict(model.named_parameters(remove_duplicate=False))
    moved = {id(parameter): (parameter, after[name]) for name, parameter in before.items()}
    for optimizer in optimizers:
        _follow(optimizer, moved)
    if average is not None:
        _share_average(average.module, after)

    return partial(_apart, model)


def share_empty(model: nn.Module, patterns: Sequence[str], device_type: str) -> None:
    """Share out a model that has no numbers yet.

    Args:
        model: on torch's device "meta".
        patterns: the names of modules that are shared out by themselves.
        device_type: where its parts will be, such as "cuda".

    Raises:
        ConfigError: a weight cannot be shared out.
    """
    apart = to_shard(model, patterns)
    check_weights(model, apart)
    _share(model, apart, device_type)
    load_whole(model)


def _share(model: nn.Module, apart: Sequence[nn.Module], device_type: str) -> None:
    """Share out a model, and the modules of it that are to be by themselves, innermost first."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_type, (distributed.size(),))
    for module in apart:
        fully_shard(module, mesh=mesh)
    # By itself it would stay whole after an evaluation, and its parameters would be others then.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


@contextmanager
def _apart(model: Any) -> Iterator[None]:
    """Within it, gradients stay in this process."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def weights_in_order(optimizer: Optimizer) -> list[torch.Tensor]:
    """What an optimizer changes, in the order of its groups."""
    found = []
    for group in optimizer.param_groups:
        found += group["params"]
    return found


def _is_of(optimizer: Optimizer, ours: set[int]) -> bool:
    """Whether an optimizer trains the model: all of its weights are the model's, or none.

    Args:
        ours: the identities of the model's weights.

    Raises:
        ConfigError: some are.
    """
    held = [id(weight) in ours for weight in weights_in_order(optimizer)]
    if any(held) and not all(held):
        name = type(optimizer).__name__
        what = f"{name} has parameters of the model and of another network, such as the loss"
        raise ConfigError(f"{_WHERE}: {what}: fsdp takes one optimizer for each")
    return any(held)


def _check(optimizer: Optimizer) -> None:
    """Refuse an optimizer that could not go on with other weights than it was made with."""
    name = type(optimizer).__name__
    for key, value in vars(optimizer).items():
        if key in ("param_groups", "state", "defaults"):
            continue
        if isinstance(value, list) and any(isinstance(item, torch.Tensor) for item in value):
            raise ConfigError(f"{_WHERE}: {name} keeps a list of weights ({key}): fsdp has others")


def _unfuse(optimizer: Optimizer) -> None:
    """Let an optimizer step without the kernels that torch lacks for what is shared out."""
    for group in optimizer.param_groups:
        if group.get("fused") and not isinstance(optimizer, torch.optim.Adam):
            group["fused"] = False


def _follow(optimizer: Optimizer, moved: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Let an optimizer go on with the weights that are shared out, and share out its state."""
    for group in optimizer.param_groups:
        group["params"] = [
            moved.get(id(parameter), (parameter, parameter))[1] for parameter in group["params"]
        ]
    _unfuse(optimizer)
    for before, after in moved.values():
        if before in optimizer.state:
            state = optimizer.state.pop(before)
            optimizer.state[after] = {key: as_shared(after, item) for key, item in state.items()}


def _share_average(average: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Share out an average of weights as these are; what has two names stays one."""
    shared: dict[int, nn.Parameter] = {}
    for name, parameter in list(average.named_parameters(remove_duplicate=False)):
        if id(parameter) not in shared:
            value = as_shared(weights[name], parameter.detach())
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
