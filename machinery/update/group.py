"""The batches of one update, and what part of them this process holds."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from machinery import distributed

Sizes = Sequence[float]


class Group:
    """Batches that make up one update, with their sizes.

    Where several processes train, each has a part of every batch; how large the whole batches are is added up while
    they compute, if nobody knows.

    Args:
        batches: of this process.
        sizes: how many samples (tokens, …) each holds; 0 for a stand-in.
        whole: the sizes of the whole batches, where they are known.
    """

    def __init__(
        self, batches: Sequence[Any] = (), sizes: Sizes = (), whole: Sizes | None = None
    ) -> None:
        self.batches, self.sizes = batches, sizes
        asks = distributed.SIZE > 1 and batches and whole is None
        #: The sizes of the whole batches.
        self.whole: Callable[[], Sizes] = (
            cache(distributed.totals(sizes)) if asks else lambda: whole or sizes
        )

    def share(self, k: int) -> float:
        """What batch k counts for in the update."""
        return self.whole()[k] / sum(self.whole()) if len(self.sizes) > 1 else 1.0

    def index(self, batch: Any, n: float) -> int | None:
        """Which of the batches it is: if there is one only, what is made of it and as large is that, too."""
        alone = 0 if len(self.batches) == 1 and n in (self.sizes[0], self.sizes[0] or 1) else None
        return next((k for k, other in enumerate(self.batches) if other is batch), alone)

    def weight(self, k: int | None) -> float | None:
        """What the mean over a part has to be multiplied by, so that the average over processes is the whole's mean.

        None stands for 1, for a batch that is none of these.
        """
        return None if k is None else self.sizes[k] * distributed.SIZE / self.whole()[k]
