"""A moving average of the weights that is judged in their place.

"trainer": {"type": "examples.ema.EMATrainer"}
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer import Trainer
from utils import unwrap


class EMATrainer(Trainer):
    """Averages weights and buffers (Polyak and Juditsky 1992, doi:10.1137/0330046).

    `trainer.ema_decay` of the config is the decay; 0.999 by default. Validation and test.py judge
    the average, which the checkpoints hold beside the weights.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        decay = self.config["trainer"].get("ema_decay", 0.999)
        average = get_ema_multi_avg_fn(decay)
        self.ema = AveragedModel(unwrap(self.model), multi_avg_fn=average, use_buffers=True)

    def _update(self, batches: Sequence[Any]) -> None:
        with self.group(batches) as group:
            for batch in group:
                self.backward(self.compute(batch))
            if group.step(self.optimizer):
                self.ema.update_parameters(unwrap(self.model))

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Within it, the average stands for the model."""
        model = self.model
        self.model = self.ema.module
        try:
            with super().judged():
                yield
        finally:
            self.model = model
