"""Where and how numbers are computed; what is off costs nothing."""

import contextlib
import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from machinery import causes, distributed
from machinery.arriving import is_under_way, to_device as to_device
from machinery.config.settings import TrainerSettings, gpus_in
from machinery.errors import ConfigError
from machinery.order import process_wide
from machinery.order.outstanding import OUTSTANDING, tensors_in
from machinery.update.compiling import (
    compiled,
    compiled_blocks as compiled_blocks,
    repeated_blocks as repeated_blocks,
)
from machinery.update.fused import lay_out_state, ready
from machinery.update.in_order import Order
from machinery.update.layout import channels_last
from machinery.update.recomputing import recompute
from machinery.update.sharding import (
    as_shared_state as as_shared_state,
    full as full,
    in_step,
    is_sharded as is_sharded,
    kind_of as kind_of,
    like_shared as like_shared,
    local as local,
    shard,
    to_shard,
    weights_in_order as weights_in_order,
    whole as whole,
)
from machinery.update.watching import LossWatch
from machinery.update.weights import keep_step, largest, lay_flat, weights_in
from machinery.update.whole_batch import whole_batch as whole_batch

Context = contextlib.AbstractContextManager[Any]

_NOTHING = contextlib.nullcontext()
#: A loss scale that small is left by gradients that are not finite at any scale.
_NO_SCALE = 2.0**-24
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_device(n_gpu: int | str) -> tuple[torch.device, list[int]]:
    """The device to train on and the indices of the GPUs, as many as asked for and as there are.

    A GPU is whatever `torch.accelerator` finds: CUDA, ROCm, XPU, MPS. One warning where there are
    fewer than `n_gpu`, as the classic template had it.
    """
    n_gpu = gpus_in(n_gpu)
    accelerator = torch.accelerator.current_accelerator()
    available = torch.accelerator.device_count()
    if accelerator is None or available == 0 or n_gpu <= 0:
        if n_gpu > 0:
            _warn_of_few(n_gpu, 0, "the CPU")
        return torch.device("cpu"), []
    if not distributed.alone():
        here = distributed.local_rank()
        if here >= available:
            there = f"of this machine, which has {available}"
            raise ConfigError(f"there is no GPU for process {here} {there}")
        return torch.device(accelerator.type, here), [here]
    if n_gpu > available:
        _warn_of_few(n_gpu, available, "what there is")
    return torch.device(accelerator.type, 0), list(range(min(n_gpu, available)))


def _warn_of_few(wanted: int, available: int, where: str) -> None:
    what = f"n_gpu is {wanted}, but {available} can be used: computing on {where}"
    logging.getLogger("device").warning(what)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and `torch.compile`."""
    inner: Any = model
    while True:
        if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif is_compiled(inner):
            inner = inner._orig_mod  # torch has no public name for what it has compiled
        else:
            return cast(nn.Module, inner)


def learning_rate(optimizer: Optimizer) -> float:
    """The rate of an optimizer's first group; NaN where it has none."""
    return float(optimizer.param_groups[0].get("lr", math.nan))


def is_compiled(model: object) -> bool:
    """Whether `torch.compile` has made a model."""
    return hasattr(model, "_orig_mod")


class Runtime:
    """How a trainer computes: device, precision, clipping and the other switches of `trainer`.

    Args:
        device: where the model is.
        settings: of the trainer.
    """

    def __init__(self, device: torch.device, settings: TrainerSettings) -> None:
        self.device = device
        self._settings = settings
        #: The 2-norm of the gradients before they were last clipped.
        self.grad_norm: torch.Tensor | None = None
        #: Whether gradients can be derived once more, as AdaHessian does; a trainer may say so.
        self.creates_graph = False
        self._average: nn.Module | None = None
        self._attended: list[Optimizer] = []
        self._with_modes: list[Any] = []
        self._warned = False
        self._alone = distributed.alone()
        #: Whether several processes have parts of each weight.
        self.shares_out = settings.strategy == "fsdp" and not self._alone
        #: The context in which gradients stay in this process, where they are averaged as they
        #: come.
        self.no_sync: Callable[[], Context] | None = None
        # What several processes have to do alike that have parts of each weight.
        self._order: Order | None = None
        self._stays = device.type == "cpu" and not settings.channels_last
        self._dtype = _DTYPES.get(settings.precision)
        # Whether gradients are scaled, as fp16 needs it.
        self._scaled = settings.precision == "fp16"
        self._scaler = torch.amp.grad_scaler.GradScaler(device.type, enabled=self._scaled)
        if settings.deterministic and settings.cudnn_benchmark:
            what = "trainer.deterministic and trainer.cudnn_benchmark contradict each other"
            raise ConfigError(f"{what}: leave one of them out")
        process_wide.use_tf32(settings.precision == "tf32")
        process_wide.use_algorithms(settings.deterministic, settings.cudnn_benchmark)

    def prepare(self, model: nn.Module, training: bool) -> nn.Module:
        """The model as it is run: its memory format, in parallel, and compiled, as configured."""
        if self._settings.channels_last:
            model = channels_last(model)
        if training:
            recompute(model, self._settings.recompute)
        if self._settings.shard and self._settings.strategy != "fsdp":
            raise ConfigError('trainer.shard is for "strategy": "fsdp"')
        if training and not distributed.alone():
            model = self._parallel(model)
        how = self._settings.compile
        if self._settings.strategy == "fsdp" and training:
            to_shard(model, self._settings.shard)  # which looks whether they are there
            if how not in (False, "blocks"):
                raise ConfigError('trainer.compile: with "fsdp" it is "blocks", or false')
        return compiled(model, how)

    def _parallel(self, model: nn.Module) -> nn.Module:
        """The model that averages its gradients over the processes while it computes them."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        distributed.join()
        if self._settings.sync_batchnorm and self.device.type != "cpu":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self._settings.strategy == "fsdp":
            return model  # `share_out` does it, once it is restored
        options: dict[str, Any] = {
            "find_unused_parameters": self._settings.find_unused_parameters,
            # Buffers are made the same where it matters: before evaluations and in checkpoints.
            _sync_buffers_option(): False,
        }
        if self.device.type != "cpu":
            options["device_ids"] = [self.device]
        parallel = nn.parallel.DistributedDataParallel(model, **options)
        self.no_sync = parallel.no_sync
        return parallel

    def share_out(
        self, model: nn.Module, optimizers: Sequence[Optimizer], average: Any = None
    ) -> None:
        """Share the model out over several processes, if the config asks for it.

        Args:
            model: restored, and the same in all of them.
            optimizers: of the trainer.
            average: of the weights, if there is one.
        """
        if self.shares_out:
            bare = unwrap(model)
            self.no_sync = shard(bare, self._settings.shard, optimizers, average)
            self._order = Order(bare, to_shard(bare, self._settings.shard))

    def in_step(self, batches: Iterable[Any]) -> Iterable[tuple[Any, bool]]:
        """Batches of an evaluation, and whether each counts; as many in each process if need be."""
        if self.shares_out:
            return in_step(batches)
        return ((batch, True) for batch in batches)

    def move(self, batch: Any) -> Any:
        """The batch on the device, with its images channels last if the model's are."""
        if self._stays and not is_under_way(batch):
            return batch
        return to_device(batch, self.device, self._settings.channels_last)

    def autocast(self) -> Context:
        """The context for a forward pass and its loss."""
        if self._dtype is None:
            return _NOTHING
        return torch.autocast(self.device.type, dtype=self._dtype)

    def backward(self, loss: torch.Tensor, weight: float = 1.0, output: Any = None) -> None:
        """Add the gradients of `loss`, as many times as it weighs.

        What counts nothing takes no part: 0 times a loss over no samples, which is NaN, is NaN. Of
        several processes each has to, because they wait for each other's gradients, in the order of
        the loss: they are zero then.

        Args:
            output: that the loss is of.
        """
        nothing = weight == 0
        if nothing and self._alone:
            return
        if weight != 1:
            loss = loss * weight
        if self._scaled:
            loss = self._scaler.scale(loss)
        if self._alone:
            self._derive(loss)
            return
        with OUTSTANDING.weighted(nothing), _without_gradients(output, nothing):
            self._derive(loss)

    def _derive(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss.

        Raises:
            ConfigError: they are to be derived once more, and averaged over processes, too.
        """
        if not self.creates_graph:
            loss.backward()
            return
        if not self._alone:
            raise ConfigError("second derivatives are computed by one process alone")
        with warnings.catch_warnings():
            # Of the cycle that gradients with a graph are in: they are cleared after each step.
            warnings.filterwarnings("ignore", ".*backward.*create_graph")
            loss.backward(create_graph=True)

    def attend(
        self,
        optimizers: Sequence[Optimizer],
        with_modes: Sequence[Any],
        average: nn.Module | None = None,
    ) -> None:
        """Know the optimizers of the trainer.

        Args:
            optimizers: their gradients are cleared after each step: no checkpoint could hold what
                is left.
            with_modes: those that have a training mode.
            average: of the weights, which follows each step.
        """
        self._average = average
        self._attended = list(optimizers)
        self._with_modes = list(with_modes)
        for optimizer in self._attended:
            lay_out_state(optimizer)

    def to_training(self) -> None:
        """Put optimizers that have modes into training mode: an evaluation leaves them in its."""
        for optimizer in self._with_modes:
            optimizer.train()

    def _warn_of_unsaved(self, optimizer: Optimizer) -> None:
        """Tell of an optimizer that no checkpoint holds; once."""
        if not self._warned:
            what = f"a {type(optimizer).__name__} steps that is no attribute of the trainer"
            logging.getLogger("trainer").warning(f"{what}: no checkpoint holds its state")
            self._warned = True

    def step(self, optimizers: Sequence[Optimizer]) -> None:
        """Clip the gradients, and let optimizers apply them.

        Raises:
            ConfigError: one takes second derivatives, and the gradients have no graph.
        """
        if not optimizers:
            return
        self._check_order()
        for optimizer in optimizers:
            self._clip(optimizer)
        for optimizer in optimizers:
            ready(optimizer)
            try:
                if self._scaled:
                    self._scaler.step(optimizer)
                else:
                    optimizer.step()
            except RuntimeError as error:
                meant = _of_step(optimizer, error)
                if meant is None:
                    raise
                raise meant from error
        if self._scaled:
            self._scaler.update()

    def _check_order(self) -> None:
        """Refuse gradients that processes have not computed alike, if they share out weights."""
        if self._order is not None:
            self._order.check()

    def step_again(
        self,
        optimizers: Sequence[Optimizer],
        again: Callable[[], None],
        mean: Callable[[], torch.Tensor],
        watch: LossWatch,
    ) -> bool:
        """Let optimizers apply the gradients that compute their loss several times a step.

        Args:
            again: adds the gradients once more.
            mean: gives the loss of the last time.
            watch: looks at the losses of all times, and at the weights.

        Returns:
            False if the step was taken back, because they are not finite.

        Raises:
            ConfigError: with fp16, whose scaling allows for one computation a step.
        """
        if self._scaled:
            what = "fp16 scales gradients once a step, and this computes them several times"
            raise ConfigError(f"trainer.precision: {what}: use bf16 or fp32")

        seen: list[torch.Tensor] = []

        def computed_again() -> torch.Tensor:
            self.clear(optimizers)
            again()
            lay_flat(optimizers)
            for optimizer in optimizers:
                self._make_ready(optimizer)  # lays out anew what is for a fused step
            seen.append(mean())
            return seen[-1]

        self._check_order()
        put_back = None
        if watch.may_skip:
            put_back = keep_step(optimizers, self._average)
        for optimizer in optimizers:
            optimizer.step(computed_again)  # type: ignore[arg-type]
        accepted = watch.accepts_within(seen, partial(largest, weights_in(optimizers)))
        if put_back is not None and not accepted:
            put_back()
        return accepted

    def largest_gradient(self, optimizers: Sequence[Optimizer]) -> torch.Tensor | None:
        """The largest gradient that optimizers are about to apply; NaN if one is, without a wait.

        None with fp16, whose loss scale steps back by itself.
        """
        if self._scaled:
            return None
        found = [weight.grad for weight in weights_in(optimizers) if weight.grad is not None]
        return largest(found)

    def no_step_was_possible(self) -> bool:
        """Whether fp16 has scaled the loss down to nothing: each gradient was infinite or NaN."""
        return self._scaled and self._scaler.get_scale() < _NO_SCALE

    def clear(self, optimizers: Sequence[Optimizer]) -> None:
        """Clear the gradients of these optimizers, and of all that are attended to."""
        for optimizer in self._attended:
            optimizer.zero_grad(set_to_none=True)
        for optimizer in optimizers:
            if optimizer not in self._attended:
                optimizer.zero_grad(set_to_none=True)
                self._warn_of_unsaved(optimizer)

    def _make_ready(self, optimizer: Optimizer) -> None:
        """Clip the gradients of an optimizer, and lay them out as its step takes them."""
        self._clip(optimizer)
        ready(optimizer)

    def _clip(self, optimizer: Optimizer) -> None:
        """Scale the gradients down, if the config asks for it, or note how large they are."""
        limit = self._settings.clip_grad_norm
        if limit is None and not self._settings.log_grad_norm:
            return
        self._scaler.unscale_(optimizer)
        weights = weights_in([optimizer])
        if limit is None:
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
        else:
            norm = nn.utils.clip_grad_norm_(weights, limit)
        self.grad_norm = full(norm)

    def state_dict(self) -> dict[str, Any]:
        """The state of the fp16 loss scale; empty otherwise."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved loss scale."""
        if state:
            self._scaler.load_state_dict(state)


def _of_step(optimizer: Optimizer, error: RuntimeError) -> ConfigError | None:
    """What the error of a step means; None if it is the optimizer's own.

    It derives gradients once more, or wants to have weights whole.
    """
    name = type(optimizer).__name__
    if "does not require grad" in str(error):
        hint = "let the constructor of a trainer of your own say self.runtime.creates_graph = True"
        return ConfigError(f"a {name} takes second derivatives: {hint}")
    if causes.is_of_sharing(error):
        return ConfigError(f"trainer.strategy: fsdp: torch has no {name} of what is shared out")
    return None


@contextmanager
def _without_gradients(output: Any, nothing: bool) -> Iterator[None]:
    """Within it, the gradients of an output are zeros if it counts `nothing`."""
    handles = []
    for tensor in tensors_in(output):
        if nothing and tensor.requires_grad:
            # No product: 0 times what is not finite is NaN.
            handles.append(tensor.register_hook(torch.zeros_like))
    yield
    for handle in handles:
        handle.remove()


def _sync_buffers_option() -> str:
    """What this torch calls the switch for sending buffers before each forward pass."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    if "forward_sync_buffers" in known:
        return "forward_sync_buffers"
    return "broadcast_buffers"
