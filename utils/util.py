"""The classic template's helpers under their classic names."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from utils.files import ensure_dir, read_json, write_json

if TYPE_CHECKING:
    from utils.metrics import MetricTracker
    from utils.runtime import prepare_device

__all__ = ["MetricTracker", "ensure_dir", "inf_loop", "prepare_device", "read_json", "write_json"]

T = TypeVar("T")


def inf_loop(data_loader: Iterable[T]) -> Iterator[T]:
    """Batches without end: pass after pass over the loader."""
    while True:
        yield from data_loader


def __getattr__(name: str) -> Any:
    # Reading a config must not wait for torch, so what needs torch is imported at its first use.
    if name == "MetricTracker":
        from utils.metrics import MetricTracker

        return MetricTracker
    if name == "prepare_device":
        from utils.runtime import prepare_device

        return prepare_device
    raise AttributeError(f"module 'utils.util' has no attribute {name!r}")
