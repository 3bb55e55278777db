"""Writing while the training goes on: what is written is of the moment of the call."""

import os
import threading
from collections.abc import Callable
from typing import Any

import torch

from machinery import distributed
from machinery.plain_data import memory_of, plain
from machinery.update.runtime import is_sharded, like_shared, local


class Copies:
    """Copies of states in host memory, in the same place each time: new memory is slow.

    A process then holds its state once more.
    """

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []
        self._used = 0
        # Of this copy: what stands for a tensor that has been copied by another name.
        self._done: dict[Any, torch.Tensor] = {}

    def of(self, state: Any) -> Any:
        """A copy of a state, until the next one is made."""
        self._used = 0
        self._done = {}
        copied = plain(state, "checkpoint", self._copy)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._done = {}
        return copied

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if not is_sharded(tensor) and not distributed.is_main():
            return tensor  # which the main process writes
        if tensor.layout != torch.strided:
            return tensor.cpu().clone()
        same = memory_of(tensor)
        if same is not None and same in self._done:
            return self._done[same]
        own = local(tensor)
        kept = self._memory_for(own)
        kept.copy_(own, non_blocking=own.device.type != "cpu")
        if is_sharded(tensor):
            return like_shared(tensor, kept)
        self._done[same] = kept
        return kept

    def _memory_for(self, tensor: torch.Tensor) -> torch.Tensor:
        """Memory that the last copy had, where this one comes to a tensor of the same kind."""
        number = self._used
        self._used += 1
        if number < len(self._kept):
            kept = self._kept[number]
            if (kept.dtype, kept.shape, kept.stride()) == _kind(tensor):
                return kept
        pinned = tensor.device.type == "cuda"
        fresh = torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)
        self._kept[number : number + 1] = [fresh]
        return fresh


def _kind(tensor: torch.Tensor) -> Any:
    return (tensor.dtype, tensor.shape, tensor.stride())


class Later:
    """What is written while the training goes on: one thing at a time, in a thread.

    Args:
        on_failure: is called in that thread if it has failed.
    """

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._on_failure = on_failure
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copies = Copies()
        #: Of all processes: what they say here must not meet what they say in training.
        self.group = distributed.own_group()
        if not distributed.alone():
            # A thread that talks must not be forked, see `distributed.until_threads_rest`.
            os.register_at_fork(before=self.rest)

    def copy(self, state: Any) -> Any:
        """A copy of a state in host memory, to be written."""
        return self._copies.of(state)

    def begin(self, work: Callable[[], None]) -> None:
        """Begin something; what was begun before has been waited for."""
        self._thread = threading.Thread(target=self._do, args=(work,), name="checkpoint")
        self._thread.start()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # the loop tells it, see `wait`
            self._error = error
            self._on_failure()

    def rest(self) -> None:
        """Wait until what was begun is done, whatever has become of it."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            self._thread = None

    def end(self) -> None:
        """Let go of the others, at a clean end or a polite stop."""
        self.rest()
        distributed.leave_own(self.group)
        self.group = None

    def wait(self) -> None:
        """Wait until what was begun is done.

        Raises:
            what it has met.
        """
        self.rest()
        error = self._error
        self._error = None
        if error is not None:
            raise error
