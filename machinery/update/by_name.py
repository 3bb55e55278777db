"""Networks that get their random weights module by module, each drawn by its own name.

The network is built on torch's device "meta", where tensors have no numbers. Then each module is
given memory, and its own `reset_parameters` is run, as torch's modules have it. So nothing has to
hold the whole: of what several processes share out, each keeps its part before the next module is
made.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from machinery import distributed
from machinery.config.checking import Checked
from machinery.config.settings import gpus_in
from machinery.errors import ConfigError, UserError
from machinery.order.outstanding import tensors_in, times_written
from machinery.order.seeding import mix
from machinery.telling import told
from machinery.update.sharding import fill_part, full, is_sharded, kind_of, share_empty

_WHERE = 'arch.init: "by_name"'
#: The methods that make a module's numbers; the first that it has is run.
_INITIALISERS = ("reset_parameters", "_reset_parameters")
#: So many names are told.
_NAMED = 3


def initialise(model: nn.Module, config: Checked, training: bool) -> None:
    """Give a network the numbers that it was built without, and share it out if that is asked for.

    Args:
        model: built on torch's device "meta".
        config: of the run.
        training: whether it will be trained: else it is whole in each process.

    Raises:
        ConfigError: a module cannot make its numbers, or not in parts; with its name.
    """
    _check_empty(model)
    written = {}
    for name, weight in model.named_parameters():
        written[name] = times_written(weight)
    settings = config.settings.trainer
    if training and settings.strategy == "fsdp" and not distributed.alone():
        kind = _device_type(config.settings.n_gpu)
        _check_shareable(model, config, kind)
        distributed.join()
        share_empty(model, settings.shard, kind)
    _Initialiser(model, config.settings.seed, written).run()


def _device_type(n_gpu: int | str) -> str:
    """Where the model will be."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or torch.accelerator.device_count() == 0 or gpus_in(n_gpu) <= 0:
        return "cpu"
    return accelerator.type


def _check_empty(model: nn.Module) -> None:
    """Refuse weights that already have numbers, or are to get their shapes later."""
    for name, weight in model.named_parameters():
        if is_lazy(weight):
            what = f"{name} is of a lazy module, whose shapes only a batch tells"
            raise ConfigError(f"{_WHERE}: {what}: name them in its constructor")
        if type(weight) is not nn.Parameter:
            what = f"{name} is a {type(weight).__name__}, and no plain Parameter"
            raise ConfigError(f'{_WHERE}: {what}: use "whole"')
        if not weight.is_meta:
            what = f"{name} is given numbers in the constructor"
            raise ConfigError(f"{_WHERE}: {what}: let reset_parameters() do that")


def _check_shareable(model: nn.Module, config: Checked, device_type: str) -> None:
    """Refuse what a model that is shared out before it has numbers cannot have."""
    settings = config.settings.trainer
    if settings.channels_last and any(weight.ndim == 4 for weight in model.parameters()):
        what = "fsdp cannot share out weights that are channels last"
        raise ConfigError(f"trainer.channels_last: {what}: set trainer.channels_last=false")
    whole = ""
    if config.settings.arch is not None and config.settings.arch.adapter is not None:
        whole = "arch.adapter is put around a whole model"
    elif settings.sync_batchnorm and device_type != "cpu":
        whole = "trainer.sync_batchnorm wants a whole model"
    if whole:
        raise ConfigError(f'{_WHERE} with "strategy": "fsdp": {whole}: use "whole"')


class _Held:
    """A weight or buffer of a network, by all of its names.

    Args:
        name: the first of them.
        tensor: as it was built.
    """

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self.name = name
        self.is_weight = isinstance(tensor, nn.Parameter)
        #: The modules that it stands in, with its name there.
        self.places: list[tuple[nn.Module, str]] = []
        #: What stands there while it has no numbers.
        self.empty = tensor
        #: What will stand there, with numbers; a weight's part of them if it is shared out. A
        #: weight has its memory from the beginning: gaps would stay between what comes and goes.
        self.final: torch.Tensor | None = None
        self._has_numbers = False
        #: What stands there while an initialiser may write it, and how often it was written then.
        self._open: torch.Tensor = tensor
        self._before = 0
        #: How often initialisers have written it, for good.
        self.written = 0.0
        if self.is_weight:
            self.final = nn.Parameter(_with_memory(tensor), tensor.requires_grad)
            vars(self.final).update(vars(tensor))
        if is_sharded(tensor):
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            self.empty = nn.Parameter(whole, tensor.requires_grad)
        # How often it was written when one last looked.
        self._seen = times_written(self.empty)

    def put(self, tensor: torch.Tensor) -> None:
        """Let a tensor stand in all of its places."""
        for module, name in self.places:
            setattr(module, name, tensor)

    def open(self) -> None:
        """Let an initialiser write all of it, in the memory of the host."""
        if self.final is not None and self._has_numbers:
            whole = full(self.final.detach()).to("cpu", copy=True)
        else:
            whole = torch.empty_like(self.empty, device="cpu", requires_grad=False)
            whole.fill_(_nothing(whole.dtype))
        if self.is_weight:
            whole = nn.Parameter(whole, self.empty.requires_grad)
            vars(whole).update(vars(self.empty))
        self._open = whole
        self._before = times_written(whole)
        self.put(whole)

    def is_touched(self) -> bool:
        """Whether it has been written since one last asked, where it has no numbers."""
        count = times_written(self.empty)
        touched = count != self._seen
        self._seen = count
        for module, name in self.places:
            if getattr(module, name) is not self.empty:
                touched = True
        return touched

    def close(self, by: str) -> None:
        """Keep what an initialiser has made, in parts if it is shared out.

        Args:
            by: its name.

        Raises:
            ConfigError: it has not made all of its numbers, or something else.
        """
        self.written += times_written(self._open) - self._before
        found: Any = self._open
        for module, name in self.places:
            if getattr(module, name) is not self._open:
                found = getattr(module, name)
                self.written = math.inf
        self._check(found, by)
        if self.is_weight and self.final is not None:
            fill_part(self.final, found)
            self.final.requires_grad_(found.requires_grad)
        else:
            self.final = found
        self._has_numbers = True
        self._open = self.empty
        self.put(self.empty)

    def _check(self, found: Any, by: str) -> None:
        """Refuse what has no numbers, and a weight that has become another."""
        if not isinstance(found, torch.Tensor) or found.is_meta:
            raise ConfigError(f"{_WHERE}: {by} makes no numbers for {self.name}")
        if self.is_weight:
            same = found.shape == self.empty.shape and found.dtype == self.empty.dtype
            if not isinstance(found, nn.Parameter) or not same:
                raise ConfigError(f"{_WHERE}: {by} makes another weight of {self.name}")
        if _has_nan(found.dtype) and bool(found.detach().isnan().any()):
            raise ConfigError(f"{_WHERE}: {by} leaves {self.name} without numbers, or gives it NaN")


def _with_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Memory for the numbers of a weight: on the host, or where it is shared out."""
    place = "cpu"
    if is_sharded(tensor):
        place = cast(Any, tensor).device_mesh.device_type
    return torch.empty_like(tensor, device=place, requires_grad=False)


def _has_nan(dtype: torch.dtype) -> bool:
    """Whether a type can say that there is no number."""
    return (dtype.is_floating_point or dtype.is_complex) and dtype.itemsize > 1


def _nothing(dtype: torch.dtype) -> float:
    """What stands where no number has been made."""
    if _has_nan(dtype):
        return float("nan")
    return 0


class _Initialiser:
    """Makes the numbers of a network.

    Args:
        model: without numbers, whole or shared out.
        seed: of the run.
        written: how often its constructor has written each of its weights.
    """

    def __init__(self, model: nn.Module, seed: int, written: Mapping[str, int]) -> None:
        self._model = model
        self._seed = seed
        self._written = written
        self._held: list[_Held] = []
        # What stands in each module itself.
        self._standing: dict[int, list[_Held]] = {}
        known: dict[int, _Held] = {}
        for name, module in model.named_modules():
            here: dict[int, _Held] = {}
            for own, tensor in list(_empty_in(module)):
                if id(tensor) not in known:
                    known[id(tensor)] = _Held(f"{name}.{own}".removeprefix("."), tensor)
                held = known[id(tensor)]
                held.places.append((module, own))
                here[id(tensor)] = held
            self._standing[id(module)] = list(here.values())
        self._held = list(known.values())
        for held in self._held:
            held.put(held.empty)

    def run(self) -> None:
        """Make all of them; torch's generator stands afterwards where it stood."""
        before = torch.default_generator.get_state()
        names = {id(module): name for name, module in self._model.named_modules()}
        try:
            for module in _children_first(self._model, set()):
                self._make(names[id(module)], module)
        finally:
            torch.default_generator.set_state(before)
        self._check_untouched(self._model)
        for held in self._held:
            held.put(cast(torch.Tensor, held.final))
        self._check_others()
        self._tell_of_lost()

    def _make(self, name: str, module: nn.Module) -> None:
        """Make the numbers of a module, and those of others that it writes."""
        opened = self._standing[id(module)]
        initialiser = _initialiser_of(module)
        if initialiser is None:
            if opened:
                raise _no_initialiser(opened[0], name, module)
            return
        by = f"{kind_of(module).__name__}.{initialiser.__name__}"
        if name:
            by = f"{by} of {name}"
        self._check_untouched(module)
        while True:
            for held in opened:
                held.open()
            self._run(initialiser, name, by)
            touched = self._touched(module, opened)
            if not touched:
                break
            opened = [*opened, *touched]
        for held in opened:
            held.close(by)

    def _run(self, initialiser: Callable[[], Any], name: str, by: str) -> None:
        """Run an initialiser, on numbers that belong to the name of its module."""
        torch.default_generator.manual_seed(mix(self._seed, "init", name))
        try:
            initialiser()
        except UserError:
            raise
        except Exception as error:  # of code of the user's
            raise ConfigError(f"{_WHERE}: {by}: {told(error)}") from error

    def _touched(self, module: nn.Module, opened: Sequence[_Held]) -> list[_Held]:
        """What an initialiser has written in its module that has no memory to hold it."""
        known = {id(held) for held in opened}
        found = {}
        for each in module.modules():
            for held in self._standing[id(each)]:
                if id(held) not in known and held.is_touched():
                    found[id(held)] = held
        return list(found.values())

    def _check_untouched(self, module: nn.Module) -> None:
        """Refuse what an initialiser has written in a module that it does not belong to."""
        touched = self._touched(module, ())
        if touched:
            what = f"{touched[0].name} is written by the reset_parameters of a module that lacks it"
            raise ConfigError(f"{_WHERE}: {what}")

    def _check_others(self) -> None:
        """Refuse tensors without numbers among other attributes: nobody makes them."""
        for name, module in self._model.named_modules():
            for key, value in vars(module).items():
                if any(tensor.is_meta for tensor in tensors_in(value)):
                    full_name = f"{name}.{key}".removeprefix(".")
                    what = f"{full_name} is a tensor without numbers"
                    hint = "let reset_parameters() set it, or make it a buffer"
                    raise ConfigError(f"{_WHERE}: {what}: {hint}")

    def _tell_of_lost(self) -> None:
        """Warn of weights that the constructor has written more often than initialisers have."""
        lost = []
        for held in self._held:
            if held.is_weight and held.written < self._written[held.name]:
                lost.append(held.name)
        if not lost or not distributed.is_main():
            return
        shown = ", ".join(lost[:_NAMED])
        if len(lost) > _NAMED:
            shown += f", … ({len(lost)})"
        what = f"what a constructor writes into {shown} is lost"
        logging.getLogger("config").warning(f"{_WHERE}: {what}: let a reset_parameters() write it")


def _empty_in(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights and buffers of a module itself that have no numbers, also of two names."""
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        if buffer.is_meta:
            yield name, buffer


def _children_first(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    """A module and all in it, each once, after what is in it."""
    if id(module) in seen:
        return
    seen.add(id(module))
    for child in module.children():
        yield from _children_first(child, seen)
    yield module


def _initialiser_of(module: nn.Module) -> Callable[[], Any] | None:
    """What makes the numbers of a module; None if nothing does."""
    for name in _INITIALISERS:
        if hasattr(module, name):
            return cast(Callable[[], Any], getattr(module, name))
    return None


def _no_initialiser(held: _Held, name: str, module: nn.Module) -> ConfigError:
    """The error of a module that nobody can give its numbers."""
    kind = kind_of(module).__name__
    what = f"a {kind}"
    if name:
        what = f"{name}, a {kind},"
    hint = "define one that fills its weights and buffers"
    return ConfigError(f"{_WHERE}: {what} has {held.name}, and no reset_parameters(): {hint}")
