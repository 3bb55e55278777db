"""Batches on their way to the GPU while it computes."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, TypeVar

import torch

from utils.runtime import Runtime, tensors_of

T = TypeVar("T")
#: Passes the batches of an iterator on, on the device.
Prefetch = Callable[[Iterator[Any]], Iterator[Any]]


def prefetcher(loader: Any, runtime: Runtime) -> Prefetch | None:
    """What copies a loader's batches to the device one ahead; None where that gains nothing: from pageable memory, or
    to the CPU.
    """
    if not getattr(loader, "pin_memory", False) or runtime.device.type == "cpu":
        return None
    return partial(prefetch, device=runtime.device, move=runtime.move)


def prefetch(batches: Iterable[Any], device: torch.device, move: Callable[[Any], Any]) -> Iterator[Any]:
    """The batches on a device, each copied there on a stream of its own while the one before is computed on.

    Args:
        batches: in pinned memory, or the copies wait for what the device has to do.
        device: one with streams.
        move: starts the copy of a batch.
    """
    backend, copying = torch.get_device_module(device), _copying(device)

    def copied() -> Iterator[tuple[Any, Any]]:
        for batch in batches:
            with backend.stream(copying):
                moved = move(batch)
            yield moved, copying.record_event()

    for batch, arrived in one_ahead(copied()):
        computing = backend.current_stream(device)
        computing.wait_event(arrived)  # the device waits, not this process
        for tensor in tensors_of(batch):
            tensor.record_stream(computing)  # its memory is not to be reused before the step is done
        yield batch


@cache
def _copying(device: torch.device) -> Any:
    """One stream for all passes: memory that a batch leaves is only reused on its own stream."""
    return torch.get_device_module(device).Stream(device)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Take each item before the one before it is handed out; an error comes in its own turn."""
    try:
        item = next(items)
    except StopIteration:
        return
    while True:
        try:
            after = next(items)
        except StopIteration:
            yield item
            return
        except Exception:
            yield item
            raise
        yield item
        item = after
