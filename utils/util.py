"""The classic template's helpers under their classic names."""

from collections.abc import Iterable, Iterator
from typing import Any

from machinery.files import (
    ensure_dir as ensure_dir,
    read_json as read_json,
    write_json as write_json,
)
from machinery.update.metrics import MetricTracker as MetricTracker
from machinery.update.runtime import prepare_device as prepare_device


def inf_loop(data_loader: Iterable[Any]) -> Iterator[Any]:
    """Batches without end: pass after pass over the loader."""
    while True:
        yield from data_loader
