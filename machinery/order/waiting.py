"""How much of the time of training went with waiting for data."""

import logging
import time
from collections.abc import Iterator
from typing import Any

#: A smaller share is not told, nor one of fewer seconds, which cost nobody anything.
_SHARE, _SECONDS = 0.1, 10.0
#: The loaders that it was told of, by their names.
_told: set[str] = set()


class Waiting:
    """Measures an epoch, from its first batch to its last.

    Args:
        loader: that gives its batches.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._seconds = 0.0

    def through(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; after the last one it is told, once, if much of the time was waited."""
        began = time.perf_counter()
        asked = began
        for batch in batches:
            self._seconds += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()
        self._tell(asked - began)

    def _tell(self, seconds: float) -> None:
        """Tell that data was waited for, with what may help."""
        name = getattr(self._loader, "name", type(self._loader).__name__)
        if name in _told or seconds < _SECONDS or self._seconds < _SHARE * seconds:
            return
        _told.add(name)
        workers = getattr(self._loader, "num_workers", 0)
        share = f"{self._seconds / seconds:.0%} of an epoch's training was waiting for data"
        hint = "more data_loader.args.num_workers may help; tools/tune.py tries some"
        logging.getLogger("data_loader").info(f"{share} (num_workers is {workers}): {hint}")
