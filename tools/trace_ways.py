"""The ways of a batch, a config and a checkpoint, in frames and files: python tools/trace_ways.py

Each way is run once with a trace of the calls into the code of this project, or of another
checkout: `--root PATH`.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent.parent


class Trace:
    """The calls into the project's files while it is entered.

    Args:
        root: of the project.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root) + os.sep
        #: That of each call, in turn.
        self.files: list[str] = []

    def _note(self, frame: FrameType, event: str, _argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(self.root) and name != __file__:
            self.files.append(name[len(self.root) :])

    def start(self) -> None:
        """Begin to note calls."""
        sys.setprofile(self._note)

    def stop(self) -> None:
        """Note no more."""
        sys.setprofile(None)

    def __enter__(self) -> "Trace":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def row(self, name: str) -> str:
        """Frames, files, and changes from one file to another."""
        changes = sum(before != after for before, after in pairwise(self.files))
        return f"{name:<40} {len(self.files):>6} {len(set(self.files)):>6} {changes:>8}"


def make_trainer(folder: Path, **settings: Any) -> Any:
    """A trainer of a linear model on digits, whole batches on the CPU."""
    import torch

    from data_loader.data_loaders import DigitsDataLoader
    from model.loss import nll_loss
    from model.metric import accuracy
    from model.model import MnistModel
    from parse_config import ConfigParser
    from trainer import Trainer

    values = {
        "name": "Trace",
        "n_gpu": 0,
        "arch": {"type": "MnistModel"},
        "data_loader": {"type": "DigitsDataLoader"},
        "optimizer": {"type": "SGD", "args": {"lr": 0.01}},
        "loss": "nll_loss",
        "metrics": ["accuracy"],
        "trainer": {
            "epochs": 1,
            "save_dir": str(folder),
            "verbosity": 0,
            "tensorboard": False,
            **settings,
        },
    }
    config = ConfigParser(values)
    model = MnistModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DigitsDataLoader()
    cpu = torch.device("cpu")
    return Trainer(model, nll_loss, [accuracy], optimizer, config, cpu, loader, None)


def batch(root: Path, folder: Path) -> str:
    """A step in the middle of an epoch, on the CPU, without logging."""
    traces: list[Trace] = []
    trainer = make_trainer(folder)
    update = trainer._after_update

    def after_update(batches: int) -> None:
        update(batches)
        sys.setprofile(None)
        if len(traces) < 10:
            trace = Trace(root)
            traces.append(trace)
            trace.start()

    trainer._after_update = after_update
    trainer.train()
    return traces[-2].row("a batch, from loader to optimizer")


def config(root: Path, folder: Path) -> str:
    """From a command line to a checked config and a model."""
    import model.model as module_arch
    from parse_config import ConfigParser

    path = folder / "config.json"
    shutil.copyfile(root / "config.json", path)
    sys.argv[:] = ["train.py", "-c", str(path)]
    with Trace(root) as trace:
        ConfigParser.from_args(argparse.ArgumentParser()).init_obj("arch", module_arch)
    return trace.row("a config, from file to model")


def checkpoint(root: Path, folder: Path) -> str:
    """The end of an epoch, which is saved."""
    trainer = make_trainer(folder, len_epoch=2)
    save = trainer._save_epoch
    traces = []

    def traced(*args: Any) -> None:
        with Trace(root) as trace:
            save(*args)
        traces.append(trace)

    trainer._save_epoch = traced
    trainer.train()
    return traces[0].row("a checkpoint, from trainer to file")


def resume(root: Path, folder: Path) -> str:
    """From a run folder on the command line to where training would go on."""
    import torch

    import data_loader.data_loaders as module_data
    import model.model as module_arch
    from model.loss import nll_loss
    from model.metric import accuracy
    from parse_config import ConfigParser
    from trainer import Trainer

    first = make_trainer(folder, len_epoch=2)
    first.train()
    sys.argv[:] = ["train.py", "-r", str(first.checkpoint_dir), "--set", "trainer.epochs=2"]
    with Trace(root) as trace:
        parsed = ConfigParser.from_args(argparse.ArgumentParser())
        network = parsed.init_obj("arch", module_arch)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        loader = parsed.init_obj("data_loader", module_data)
        cpu = torch.device("cpu")
        trainer = Trainer(network, nll_loss, [accuracy], optimizer, parsed, cpu, loader, None)
        trainer.restore()
    return trace.row("a checkpoint, from file to trainer")


def main() -> None:
    """Run each way and print its row."""
    parser = argparse.ArgumentParser(
        description="Count frames and files on the ways through the project."
    )
    parser.add_argument(
        "--root", type=Path, default=HERE, help="checkout to look at; by default this one"
    )
    root = parser.parse_args().root.resolve()
    sys.path.insert(0, str(root))
    ways: list[Callable[[Path, Path], str]] = [batch, config, checkpoint, resume]
    print(f"{'':<40} {'frames':>6} {'files':>6} {'changes':>8}")
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            print(way(root, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
