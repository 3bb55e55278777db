"""What is frozen stays as it is, and at the end of the training the best model is tested."""

from typing import Any

import test
from train import load_run
from trainer import Trainer


class TestedTrainer(Trainer):
    """Keeps frozen modules in evaluation mode, and tests at the end as `python test.py -r RUN`."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        for module in model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()  # or BatchNorm would take the statistics of the new pictures
        super().__init__(model, *args, **kwargs)

    def train(self) -> None:
        """Train, and test."""
        super().train()
        if not self.config.launch.checking:
            _, config = load_run(self.checkpoint_dir)
            test.main(config, "test")
