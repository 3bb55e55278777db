"""The classic template's helpers under their classic names."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from utils.files import ensure_dir, read_json, write_json
from utils.metrics import MetricTracker
from utils.runtime import prepare_device

__all__ = ["MetricTracker", "ensure_dir", "inf_loop", "prepare_device", "read_json", "write_json"]

T = TypeVar("T")


def inf_loop(data_loader: Iterable[T]) -> Iterator[T]:
    """Batches without end: pass after pass over the loader."""
    while True:
        yield from data_loader
