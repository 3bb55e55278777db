"""The same training in other libraries, with their defaults, where they are installed.

The data comes the usual way: torch's DataLoader over a TensorDataset.
"""

import logging
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

Data = tuple[torch.Tensor, torch.Tensor]
#: Trains a model for an epoch on (training data, validation data or None, batch size, loss, device, folder); seconds.
Library = Callable[[nn.Module, Data, Data | None, int, Any, torch.device, Path], float]


def installed() -> dict[str, Library]:
    """The libraries that are there, by name."""
    known: dict[str, Library] = {"lightning": with_lightning, "accelerate": with_accelerate, "ignite": with_ignite}
    return {name: library for name, library in known.items() if find_spec(name) is not None}


def loaders(train: Data, valid: Data | None, size: int) -> tuple[Any, Any]:
    """The usual loaders."""
    generator = torch.Generator()
    return (
        DataLoader(TensorDataset(*train), size, shuffle=True, generator=generator),
        None if valid is None else DataLoader(TensorDataset(*valid), size, generator=generator),
    )


def with_lightning(
    model: nn.Module, train: Data, valid: Data | None, size: int, loss_of: Any, device: torch.device, folder: Path
) -> float:
    """Lightning's Trainer."""
    import lightning

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def _step(self, batch: Any, prefix: str) -> torch.Tensor:
            output = self.model(batch[0])
            loss: torch.Tensor = loss_of(output, batch[1])
            self.log(f"{prefix}loss", loss, on_epoch=True)
            self.log(f"{prefix}accuracy", (output.argmax(1) == batch[1]).float().mean(), on_epoch=True)
            return loss

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self._step(batch, "")

        def validation_step(self, batch: Any, index: int) -> None:
            self._step(batch, "val_")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), lr=0.01)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            default_root_dir=str(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        started = time.perf_counter()
        trainer.fit(Module(), *loaders(train, valid, size))
    return time.perf_counter() - started


def with_accelerate(
    model: nn.Module, train: Data, valid: Data | None, size: int, loss_of: Any, device: torch.device, folder: Path
) -> float:
    """A loop by hand with accelerate's objects."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu")
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.01)
    started = time.perf_counter()
    model, optimizer, *prepared = accelerator.prepare(model, optimizer, *filter(None, loaders(train, valid, size)))
    for loader in prepared:
        training = loader is prepared[0]
        model.train(training)
        total, hits = torch.zeros((), device=device), torch.zeros((), device=device)
        with torch.set_grad_enabled(training):
            for x, y in loader:
                output = model(x)
                loss = loss_of(output, y)
                if training:
                    optimizer.zero_grad()
                    accelerator.backward(loss)
                    optimizer.step()
                total += loss.detach() * len(y)
                hits += (output.argmax(1) == y).sum()
        float(total), float(hits)
    return time.perf_counter() - started


def with_ignite(
    model: nn.Module, train: Data, valid: Data | None, size: int, loss_of: Any, device: torch.device, folder: Path
) -> float:
    """Ignite's engines."""
    from ignite.engine import create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Accuracy, Loss

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = create_supervised_trainer(
        model, optimizer, loss_of, device=device, output_transform=lambda x, y, output, loss: (output, y)
    )
    Accuracy(device=device).attach(trainer, "accuracy")
    Loss(loss_of, device=device).attach(trainer, "loss")
    metrics: Any = {"accuracy": Accuracy(device=device), "loss": Loss(loss_of, device=device)}
    evaluator = create_supervised_evaluator(model, metrics, device=device)
    batches, held_out = loaders(train, valid, size)
    started = time.perf_counter()
    trainer.run(batches, max_epochs=1)
    if held_out is not None:
        evaluator.run(held_out)
    return time.perf_counter() - started
