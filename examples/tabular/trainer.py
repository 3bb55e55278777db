"""The normalisation is fitted on what is trained on, and on nothing else."""

from typing import Any

from trainer import Trainer
from utils import unwrap


class TableTrainer(Trainer):
    """Fits the model's normalisation before anything else; a checkpoint brings its own."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        if self.data_loader is not None:
            inner: Any = unwrap(self.model)
            inner.fit(self.data_loader.x.to(self.device), self.data_loader.y.to(self.device))
