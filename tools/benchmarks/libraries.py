"""The same training in other libraries, with their defaults, where they are installed.

The data comes the usual way: torch's DataLoader over a TensorDataset.
"""

import logging
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tools.benchmarks.paired import Data


class Task(NamedTuple):
    """An epoch of training, and an evaluation if there is data for it."""

    model: nn.Module
    train: Data
    valid: Data | None
    batch_size: int
    loss_of: Any
    device: torch.device
    #: For whatever a library writes.
    folder: Path
    #: To be called after each step of the training.
    stepped: Callable[[], None] = lambda: None


#: Does a task; the seconds that it takes.
Library = Callable[[Task], float]


def installed() -> dict[str, Library]:
    """The libraries that are there, by name."""
    known: dict[str, Library] = {
        "lightning": with_lightning,
        "accelerate": with_accelerate,
        "ignite": with_ignite,
    }
    return {name: library for name, library in known.items() if find_spec(name) is not None}


def loaders(task: Task) -> list[Any]:
    """The usual loaders: of the training data, and of the validation data if there is some."""
    generator = torch.Generator()
    size = task.batch_size
    found = [DataLoader(TensorDataset(*task.train), size, shuffle=True, generator=generator)]
    if task.valid is not None:
        found.append(DataLoader(TensorDataset(*task.valid), size, generator=generator))
    return found


def with_lightning(task: Task) -> float:
    """Lightning's Trainer."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = _lightning_module(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="gpu" if task.device.type == "cuda" else "cpu",
            devices=1,
            default_root_dir=str(task.folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        started = time.perf_counter()
        trainer.fit(module, *loaders(task))
    return time.perf_counter() - started


def _lightning_module(task: Task) -> Any:
    """The model as Lightning wants it."""
    import lightning

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = task.model

        def _step(self, batch: Any, prefix: str) -> torch.Tensor:
            output = self.model(batch[0])
            loss: torch.Tensor = task.loss_of(output, batch[1])
            hits = (output.argmax(1) == batch[1]).float()
            self.log(f"{prefix}loss", loss, on_epoch=True)
            self.log(f"{prefix}accuracy", hits.mean(), on_epoch=True)
            return loss

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self._step(batch, "")

        def on_train_batch_end(self, *given: Any) -> None:
            task.stepped()

        def validation_step(self, batch: Any, index: int) -> None:
            self._step(batch, "val_")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), lr=0.01)

    return Module()


def with_accelerate(task: Task) -> float:
    """A loop by hand with accelerate's objects."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=task.device.type == "cpu")
    sgd = torch.optim.SGD(task.model.parameters(), lr=0.01)
    started = time.perf_counter()
    model, optimizer, *prepared = accelerator.prepare(task.model, sgd, *loaders(task))
    for loader in prepared:
        training = loader is prepared[0]
        model.train(training)
        total = torch.zeros((), device=task.device)
        hits = torch.zeros((), device=task.device)
        with torch.set_grad_enabled(training):
            for x, y in loader:
                output = model(x)
                loss = task.loss_of(output, y)
                if training:
                    optimizer.zero_grad()
                    accelerator.backward(loss)
                    optimizer.step()
                total += loss.detach() * len(y)
                hits += (output.argmax(1) == y).sum()
                if training:
                    task.stepped()
        float(total)  # as a loop that reports them reads them
        float(hits)
    return time.perf_counter() - started


def with_ignite(task: Task) -> float:
    """Ignite's engines."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Accuracy, Loss

    def output_and_target(x: Any, y: Any, output: Any, loss: Any) -> Any:
        return output, y

    device = task.device
    trainer = create_supervised_trainer(
        task.model,
        torch.optim.SGD(task.model.parameters(), lr=0.01),
        task.loss_of,
        device=device,
        output_transform=output_and_target,
    )
    Accuracy(device=device).attach(trainer, "accuracy")
    Loss(task.loss_of, device=device).attach(trainer, "loss")
    trainer.add_event_handler(Events.ITERATION_COMPLETED, task.stepped)
    metrics: Any = {
        "accuracy": Accuracy(device=device),
        "loss": Loss(task.loss_of, device=device),
    }
    evaluator = create_supervised_evaluator(task.model, metrics, device=device)
    batches, *held_out = loaders(task)
    started = time.perf_counter()
    trainer.run(batches, max_epochs=1)
    for loader in held_out:
        evaluator.run(loader)
    return time.perf_counter() - started
