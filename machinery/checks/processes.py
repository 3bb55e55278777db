"""What several processes cannot do together: checked before they begin."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DistributedSampler

from machinery import distributed
from machinery.checks.batchnorm import against_single, counts_tokens
from machinery.errors import ConfigError
from machinery.update.metrics import asks_others
from machinery.update.networks import device_of


def check_processes(model: nn.Module, loader: Any, metrics: Sequence[Any], synced: bool) -> None:
    """Refuse metrics that several processes could not add up, and data unlike that of one process.

    Args:
        synced: whether BatchNorm is to see the whole batch, as it can on GPUs.

    Raises:
        ConfigError: with what to change.
    """
    if distributed.alone():
        return
    for metric in metrics:
        _check_metric(metric)
    if not hasattr(loader, "batch_size") or not isinstance(loader.batch_size, int):
        return
    _check_sparse(model)
    if "batch_sampler" in getattr(loader, "init_kwargs", {}):  # which says how large batches are
        return
    if loader.batch_size < distributed.size():
        few = f"{loader.batch_size} samples are too few for {distributed.size()} processes"
        raise ConfigError(f"data_loader.args.batch_size: {few}")
    if not _shares_out(loader):
        what = f"{type(loader).__name__} gives each of the {distributed.size()} processes"
        hint = "a loader on BaseDataLoader would share them out"
        logging.getLogger("trainer").warning(f"{what} all of its batches: {hint}")
    if synced and device_of(model).type != "cpu":
        return
    if not counts_tokens(loader):  # else only the pass says how many samples a batch has
        _check_batchnorm(model, loader)


def _check_metric(metric: Any) -> None:
    """A metric object has to take what that of another process has counted."""
    if not hasattr(metric, "compute") or hasattr(metric, "merge_state") or asks_others(metric):
        return
    what = "merge_state(other), which adds what that of another process has counted"
    raise ConfigError(f"metrics: on several processes {metric.__name__} needs a method {what}")


def _check_sparse(model: nn.Module) -> None:
    module: Any
    for module in model.modules():
        if hasattr(module, "sparse") and module.sparse is True:
            what = "DistributedDataParallel averages the others wrongly beside them"
            raise ConfigError(f"sparse gradients: {what}")
    for name, buffer in model.named_buffers():
        if buffer.layout != torch.strided:
            what = "DistributedDataParallel cannot send it to other processes"
            raise ConfigError(f"the buffer {name} is sparse: {what}")


def _shares_out(loader: Any) -> bool:
    """Whether each process gets batches of its own."""
    if hasattr(loader, "batches"):
        return True
    return hasattr(loader, "sampler") and isinstance(loader.sampler, DistributedSampler)


def _smallest_batch(loader: Any) -> int:
    """How many samples the smallest batch of a pass holds, as far as that is known."""
    if loader.drop_last or not hasattr(loader, "n_samples"):
        return loader.batch_size
    last = loader.n_samples % loader.batch_size
    if last == 0:
        return loader.batch_size
    return last


def _check_batchnorm(model: nn.Module, loader: Any) -> None:
    """BatchNorm over single values needs two samples in each process."""
    smallest = _smallest_batch(loader)
    if smallest >= 2 * distributed.size():
        return
    if any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        what = (
            f"a batch of {smallest} leaves one of {distributed.size()} processes "
            "a single sample, too few for BatchNorm"
        )
        raise ConfigError(f"{what}: {against_single(loader)}")
