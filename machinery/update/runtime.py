"""Where and how numbers are computed: device, precision and the optimizer step. What is off costs nothing."""

import contextlib
import inspect
import logging
import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from machinery import distributed
from machinery.config.settings import TrainerSettings
from machinery.errors import ConfigError

Context = contextlib.AbstractContextManager[Any]

_NOTHING = contextlib.nullcontext()
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_device(n_gpu: int) -> tuple[torch.device, list[int]]:
    """The device to train on and the indices of the GPUs, as many as asked for and as there are.

    A GPU is whatever `torch.accelerator` finds: CUDA, ROCm, XPU, MPS. One warning where there are fewer than `n_gpu`,
    as the classic template had it.
    """
    available = torch.accelerator.device_count()
    if distributed.SIZE > 1 and n_gpu > 0 and available:
        here = distributed.LOCAL_RANK
        if here >= available:
            raise ConfigError(
                f"there is no GPU for process {here} of this machine, which has {available}"
            )
        return torch.device(torch.accelerator.current_accelerator().type, here), [here]  # type: ignore[union-attr]
    if n_gpu > available:
        where = "what there is" if available else "the CPU"
        logging.getLogger("device").warning(
            f"n_gpu is {n_gpu}, but {available} can be used: training on {where}"
        )
    n_gpu = min(n_gpu, available)
    kind = torch.accelerator.current_accelerator() if n_gpu > 0 else None
    return torch.device("cpu") if kind is None else torch.device(kind.type, 0), list(range(n_gpu))


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and `torch.compile`, whose names a checkpoint keeps."""
    inner: Any = model
    while isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(
        inner, "_orig_mod"
    ):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    return cast(nn.Module, inner)


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """Move the tensors of a batch, through tuples, lists and dicts; copies from pinned memory do not wait."""
    if isinstance(batch, torch.Tensor):
        images = channels_last and batch.ndim == 4
        layout = torch.channels_last if images else torch.preserve_format
        return batch.to(device, non_blocking=True, memory_format=layout)
    if hasattr(batch, "to"):  # a batch of a class of its own, such as a tokenizer's
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device, channels_last) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device, channels_last) for value in batch)
    return batch


def first_tensor(batch: Any) -> torch.Tensor | None:
    """The first tensor of a batch, in the order of its containers."""
    if isinstance(batch, torch.Tensor):
        return batch
    values = (
        batch.values()
        if isinstance(batch, Mapping)
        else batch
        if isinstance(batch, list | tuple)
        else ()
    )
    return next((tensor for tensor in map(first_tensor, values) if tensor is not None), None)


class Runtime:
    """How a trainer computes: device, precision, clipping and the other switches of `trainer` in the config.

    Args:
        device: where the model is.
        settings: of the trainer.
    """

    def __init__(self, device: torch.device, settings: TrainerSettings) -> None:
        self.device, self._settings = device, settings
        #: The 2-norm of the gradients before they were last clipped.
        self.grad_norm: torch.Tensor | None = None
        #: What the next loss counts for, where several processes have parts of a batch.
        self.weight: float | None = None
        self._ddp: nn.parallel.DistributedDataParallel | None = None
        self._stays = device.type == "cpu" and not settings.channels_last
        self._dtype, self._scaled = _DTYPES.get(settings.precision), settings.precision == "fp16"
        self._scaler = torch.amp.grad_scaler.GradScaler(device.type, enabled=self._scaled)
        if settings.deterministic:
            # cuBLAS reads it when it starts.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False

    def prepare(self, model: nn.Module, training: bool) -> nn.Module:
        """The model as it is run: in the memory format, in parallel, and compiled, as the config asks for."""
        if self._settings.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if (
            training
            and distributed.SIZE > 1
            and any(parameter.requires_grad for parameter in model.parameters())
        ):
            model = self._parallel(model)
        return cast(nn.Module, torch.compile(model)) if self._settings.compile else model

    def _parallel(self, model: nn.Module) -> nn.Module:
        """The model that averages its gradients over the processes while it computes them."""
        distributed.join()
        if self._settings.sync_batchnorm and self.device.type != "cpu":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        # Buffers are made the same where it matters: before evaluations and in checkpoints.
        options = {
            "forward_sync_buffers"
            if "forward_sync_buffers" in known
            else "broadcast_buffers": False
        }
        options["find_unused_parameters"] = self._settings.find_unused_parameters
        devices = None if self.device.type == "cpu" else [self.device]
        self._ddp = nn.parallel.DistributedDataParallel(model, devices, **options)  # type: ignore[arg-type]
        return self._ddp

    def unsynced(self, more: bool) -> Context:
        """The context for a batch after which `more` batches come before the update: gradients stay here until then."""
        return self._ddp.no_sync() if more and self._ddp is not None else _NOTHING

    def move(self, batch: Any) -> Any:
        """The batch on the device, with its images channels last if the model's are."""
        if self._stays:
            return batch
        return to_device(batch, self.device, self._settings.channels_last)

    def autocast(self) -> Context:
        """The context for a forward pass and its loss."""
        if self._dtype is None:
            return _NOTHING
        return torch.autocast(self.device.type, dtype=self._dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`."""
        loss = loss if self.weight is None else loss * self.weight
        (self._scaler.scale(loss) if self._scaled else loss).backward()

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients, let the optimizer apply them, clear them."""
        self.clip(optimizer)
        if self._scaled:
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def clip(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale the gradients down, if the config asks for it."""
        if self._settings.clip_grad_norm is not None:
            self._scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self.grad_norm = nn.utils.clip_grad_norm_(parameters, self._settings.clip_grad_norm)

    def state_dict(self) -> dict[str, Any]:
        """The state of the fp16 loss scale; empty otherwise."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved loss scale."""
        if state:
            self._scaler.load_state_dict(state)
