"""A moving average of the weights that is judged in their place, as `trainer.ema` has it.

"trainer": {"type": "examples.ema.EMATrainer"} is how earlier versions had it: its runs go on.
"""

from typing import Any

from trainer import Trainer


class EMATrainer(Trainer):
    """Averages weights and buffers; `trainer.ema_decay` is the decay, 0.999 by default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.settings.ema is None:
            decay = self.config["trainer"].get("ema_decay", 0.999)
            self.settings = self.settings.model_copy(update={"ema": decay})
