"""The networks of a trainer: their device, their modes, their buffers."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from machinery import distributed
from machinery.config.checking import Checked
from machinery.errors import ConfigError
from machinery.telling import told
from machinery.update.by_name import initialise as initialise
from machinery.update.runtime import prepare_device, unwrap
from machinery.update.sharding import any_sharded, is_sharded, kind_of, load_whole, local

_OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def device_of(network: nn.Module) -> torch.device:
    """Where the parameters of a network are."""
    for parameter in network.parameters():
        return parameter.device
    return torch.device("cpu")


def device_for(model: nn.Module, takes: Mapping[str, Parameter], config: Checked) -> torch.device:
    """The device of a model, which goes to the GPU first where nobody else brings it there.

    In older versions of the classic template that was up to the base of all loops: their scripts
    hand no device on.

    Args:
        takes: what the class of the loop takes.
        config: may ask for a GPU.
    """
    device = device_of(model)
    is_told = "device" in takes or any(each.kind in _OPEN for each in takes.values())
    n_gpu = config.values.get("n_gpu")
    if is_told or not config.source.classic or not n_gpu or device.type != "cpu":
        return device
    device, _ = prepare_device(n_gpu)
    model.to(device)
    return device


def bring(networks: Sequence[nn.Module], device: torch.device) -> None:
    """Bring networks from the CPU to the device; one that is elsewhere has been put there."""
    if device.type == "cpu":
        return
    for network in networks:
        tensors = [*network.parameters(), *network.buffers()]
        if all(tensor.device.type == "cpu" for tensor in tensors):
            network.to(device)


def share_buffers(networks: Sequence[nn.Module]) -> None:
    """Give all processes the main one's buffers, such as the running means of BatchNorm.

    A table that grows with its inputs may be of another length in each.
    """
    if distributed.alone():
        return
    buffers: list[torch.Tensor] = []
    for network in networks:
        buffers += network.buffers()
    if not buffers:
        return
    theirs = distributed.gathered([buffer.shape for buffer in buffers])[0]
    for buffer, shape in zip(buffers, theirs, strict=True):
        if buffer.shape != shape:
            buffer.data = buffer.new_zeros(shape)
        distributed.broadcast([buffer])


def _modules(networks: Sequence[nn.Module]) -> list[nn.Module]:
    """The networks and all that is in them."""
    modules: list[nn.Module] = []
    for network in networks:
        modules += network.modules()
    return modules


def clear_gradients(networks: Sequence[nn.Module]) -> None:
    """Leave no gradients of the time before: no checkpoint holds them."""
    for network in networks:
        network.zero_grad(set_to_none=True)


def to_training(networks: Sequence[nn.Module]) -> None:
    """Put networks in training mode by their own `train()`; what was switched off stays off."""
    off = [module for module in _modules(networks) if not module.training]
    for network in networks:
        if network.training:
            network.train()
    for module in off:
        module.training = False


def begin_in_training(with_modes: Iterable[Any], step: int) -> None:
    """Let optimizers with modes begin an epoch in training.

    Args:
        step: batches of it that are done: what goes on within it is in the mode of the checkpoint,
            which was written in validation if that was stopped, and the way to the other mode and
            back would cost the last bit.
    """
    if step > 0:
        return
    for optimizer in with_modes:
        optimizer.train()


@contextmanager
def evaluating(
    networks: Sequence[nn.Module], with_modes: Iterable[Any] = (), average: Any = None
) -> Iterator[None]:
    """Put networks in evaluation mode; afterwards each module is in the mode that it was in.

    Args:
        networks: whose modules they are.
        with_modes: optimizers that stay in evaluation mode until the next update.
        average: an `Average` that stands for its network meanwhile.
    """
    for optimizer in with_modes:
        optimizer.eval()
    stands_in = average is not None and average.exchange()
    modules = _modules(networks)
    modes = [module.training for module in modules]
    training = [network for network in networks if network.training]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        if stands_in:
            average.exchange_back()
        for network in training:
            network.train()  # which may do more than set flags
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


class Average(AveragedModel):
    """A moving average of a network's weights and buffers, which is judged in their place.

    Polyak and Juditsky 1992, doi:10.1137/0330046. A checkpoint has it as an `AveragedModel`. What
    is no floating-point number, or infinite, such as a table of indices or a mask, is a copy.

    Args:
        network: to follow.
        decay: what remains of the average in each step.
        only_finite: leave out steps after which a weight is not finite.
    """

    def __init__(self, network: nn.Module, decay: float, only_finite: bool) -> None:
        bare = unwrap(network)
        copied = bare
        if any_sharded(bare.parameters()):
            copied = _plain_modules(bare)
        try:
            super().__init__(copied, use_buffers=True)
        except RuntimeError as error:  # weights that are computed from others
            what = f"trainer.ema: a {type(bare).__name__} cannot be copied"
            raise ConfigError(f"{what}: {told(error)}") from error
        if copied is not bare:
            load_whole(self.module)
        self._followed = [bare]  # in a list, or its weights would be the average's, too
        self._average = get_ema_multi_avg_fn(decay)
        self._only_finite = only_finite
        self._stands_in = False
        # Whether nothing is averaged yet; None: nobody has looked, which waits for the GPU.
        self._is_empty: bool | None = None
        # Of the pairs, those that hold infinities from the beginning.
        self._infinite = []
        for number, (_, own) in enumerate(self._pairs()):
            if own.is_floating_point() and bool(torch.isinf(own).any()):
                self._infinite.append(number)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Take part in every step of an optimizer from here on."""
        optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, *_: Any) -> None:
        (network,) = self._followed
        if self._only_finite:
            for parameter in network.parameters():
                if not bool(torch.isfinite(parameter).all()):
                    return
        self.update_parameters(network)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Let the average follow a step."""
        if self._is_empty is None:
            self._is_empty = int(self.n_averaged) == 0
        averages = []
        values = []
        for number, (averaged, own) in enumerate(self._pairs()):
            if averaged.shape != own.shape:  # a table that grows
                averaged.data = own.detach().clone()
            elif self._is_empty or number in self._infinite or not _is_averaged(own):
                averaged.copy_(own)
            else:
                averages.append(averaged)
                values.append(own)
        if averages:
            here = [local(each) for each in averages]
            self._average(here, [local(each) for each in values], self.n_averaged)
        self._is_empty = False
        self.n_averaged += 1

    def exchange(self) -> bool:
        """Let the average and the network change places; False if they have, or it is empty."""
        if self._stands_in or int(self.n_averaged) == 0:
            return False
        self._stands_in = True
        self._change_places()
        return True

    def exchange_back(self) -> None:
        """Let them change back."""
        self._stands_in = False
        self._change_places()

    def _change_places(self) -> None:
        for averaged, own in self._pairs():
            if is_sharded(own):  # FSDP2 knows where its numbers are
                kept = local(own.data).clone()
                local(own.data).copy_(local(averaged.data))
                local(averaged.data).copy_(kept)
            else:
                averaged.data, own.data = own.data, averaged.data

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each tensor of the average with that of the network."""
        (network,) = self._followed
        yield from zip(self.module.parameters(), network.parameters(), strict=True)
        yield from zip(self.module.buffers(), network.buffers(), strict=True)

    def replace(self) -> None:
        """Let the network have the average for good, where nothing is trained."""
        if int(self.n_averaged) == 0:
            return
        for averaged, own in self._pairs():
            own.data = averaged.data.clone()


def _plain_modules(network: nn.Module) -> nn.Module:
    """Modules that have the weights and buffers of a network, by their names, and compute nothing.

    FSDP2 lets nobody copy what it shares out.

    Raises:
        ConfigError: its `state_dict` has more than that.
    """
    state = network.state_dict()
    made: dict[int, nn.Module] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        plain = made.setdefault(id(module), nn.Module())
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            plain.register_parameter(name, cast(nn.Parameter, weight))
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            persistent = f"{path}.{name}".removeprefix(".") in state
            plain.register_buffer(name, buffer, persistent)
        above, _, last = path.rpartition(".")
        if path:
            made[id(network.get_submodule(above))].register_module(last, plain)
    plain = made[id(network)]
    if plain.state_dict().keys() != state.keys():
        what = f"the state_dict of a {kind_of(network).__name__} has more than weights and buffers"
        raise ConfigError(f'trainer.ema: {what}: "arch": {{"init": "whole"}}')
    return plain


def _is_averaged(value: torch.Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """No gradients are computed, as in evaluations, unless a model has `evaluates_with_gradients`.

    That is for a forward pass which needs some itself, such as forces from an energy.
    """
    with contextlib.ExitStack() as stack:
        wanted = getattr(unwrap(model), "evaluates_with_gradients", False)
        stack.enter_context(torch.set_grad_enabled(wanted))
        if wanted and isinstance(model, nn.parallel.DistributedDataParallel):
            stack.enter_context(model.no_sync())  # it prepares for no backward pass
        try:
            yield
        except RuntimeError as error:
            if not wanted and "does not require grad" in str(error):
                what = "evaluation runs without gradients"
                error.add_note(f"{what}: a model with evaluates_with_gradients = True has them")
            raise


class _Kept(NamedTuple):
    """A buffer, where it stands, and its value."""

    module: nn.Module
    name: str
    buffer: torch.Tensor
    value: torch.Tensor


def keep_buffers(networks: Sequence[nn.Module]) -> Callable[[], None]:
    """What puts the buffers of networks back as they are now, as often as it is called."""
    kept: list[_Kept] = []
    for module in _modules(networks):
        for name, buffer in module.named_buffers(recurse=False):
            kept.append(_Kept(module, name, buffer, buffer.clone()))

    def put_back() -> None:
        with torch.no_grad():
            for each in kept:
                each.buffer.copy_(each.value)
                setattr(each.module, each.name, each.buffer)  # another may stand there

    return put_back
