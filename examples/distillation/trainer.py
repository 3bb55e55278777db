"""A student learns from the labels and from what a teacher says.

Hinton et al. 2015, arXiv:1503.02531.
"""

from typing import Any

import torch
import torch.nn.functional as F

import model.model as module_arch
from train import load_run
from trainer import Trainer
from utils import ConfigError, distributed, project_path


class DistillingTrainer(Trainer):
    """Has a second network, the teacher, which is saved beside the student and never trained.

    Keys of its own in the section `trainer`: `teacher`, a run folder or a checkpoint of
    `arch_teacher`, relative to the project's root, or null: it is trained for `teacher_epochs`
    first; and `temperature`.
    """

    loss_terms = ("loss", "hard", "soft")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = self.config["trainer"]
        self.temperature = own.get("temperature", 4.0)
        self.teacher = self.config.init_obj("arch_teacher", module_arch).to(self.device)
        launch = self.config.launch
        if launch.trains and not launch.continues:  # else the checkpoint has it
            if own.get("teacher"):
                teacher, _ = load_run(project_path(own["teacher"]))
                self.teacher.load_state_dict(teacher.state_dict())
            else:
                self._train_teacher(own.get("teacher_epochs", 5))
        self.teacher.eval().requires_grad_(False)

    def _train_teacher(self, epochs: int) -> None:
        """The quick way to a teacher, for a first try."""
        if not distributed.alone():
            hint = "on several processes, train the teacher first, and name its run"
            raise ConfigError(f"trainer.teacher: {hint}")
        last = 1 if self.config.launch.checking else None
        optimizer = torch.optim.Adam(self.teacher.parameters(), lr=0.002)
        for epoch in range(1, epochs + 1):
            for batch in self.data_loader.batches(epoch, 0, last):
                images = batch["image"].to(self.device)
                labels = batch["label"].to(self.device)
                F.nll_loss(self.teacher(images).log_softmax(dim=1), labels).backward()
                optimizer.step()
                optimizer.zero_grad()

    def _forward(self, batch: Any) -> tuple[Any, Any, Any]:
        output = self.model(batch["image"])
        with torch.no_grad():
            known = self.teacher(batch["image"])
        hard = F.cross_entropy(output, batch["label"])
        t = self.temperature
        said = (output / t).log_softmax(dim=1)
        hint = (known / t).softmax(dim=1)
        soft = F.kl_div(said, hint, reduction="batchmean") * t**2
        terms = {"loss": (hard + soft) / 2, "hard": hard, "soft": soft}
        return terms, output, batch["label"]
