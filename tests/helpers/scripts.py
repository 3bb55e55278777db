"""Scripts of the project in forked processes, which have torch already."""

import os
import runpy
import signal
import sys

import torchvision.datasets  # noqa: F401

import forked
from projects import ROOT
from trainer import Trainer


def script(name, words, stop_at=0):
    """Run a script of the project in this process; in an update of the second epoch, it gets a
    SIGTERM."""
    after = Trainer._after_update

    def stopping(self, batches):
        self.updates = getattr(self, "updates", 0) + (self.epoch == 2)
        if self.updates == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        after(self, batches)

    if stop_at:
        Trainer._after_update = stopping
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.argv = [name, *map(str, words)]
    runpy.run_path(name, run_name="__main__")


def run(folder, name, *words, code=0, stop_at=0):
    """Like `python name words`; what it printed."""
    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    ended = forked.finish(forked.start(script, name, words, stop_at, output=output))
    assert ended == code, output.read_text()
    return output.read_text()


SHORT = {"data_loader.args.validation_split": 0.85, "trainer.log_step": 3, "n_gpu": 0}


def words(folder, **more):
    settings = {**SHORT, "trainer.save_dir": folder, **more}
    return [
        "-c",
        "config.json",
        *(word for k, v in settings.items() for word in ("--set", f"{k}={v}")),
    ]


def train(folder, name, **more):
    return run(folder, "train.py", *words(folder, **more), "--run_id", name)
