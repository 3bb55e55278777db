"""LBFGS, which computes its loss several times a step.

"trainer": {"type": "examples.lbfgs.trainer.LBFGSTrainer"}
"""

from collections.abc import Sequence
from typing import Any

from trainer import Trainer


class LBFGSTrainer(Trainer):
    """Lets the optimizer compute the gradients once more.

    Liu and Nocedal 1989, doi:10.1007/BF01589116.
    """

    def _update(self, batches: Sequence[Any]) -> None:
        """One search for the minimum on some batches, as if they were one large batch."""
        with self.group(batches) as group:

            def add_gradients() -> None:
                for batch in group:
                    self.backward(self.compute(batch))

            add_gradients()
            group.step(self.optimizer, again=add_gradients)
