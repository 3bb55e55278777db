"""Trackers: `--set 'trainer.trackers=["examples.trackers.MLflow"]'`, or {"type": "examples.trackers.WandB", "args": …}.

One of your own is a class like these, here or in a module of `trainer/`: "trainer.mine.MyTracker". It gets the config
first. One that fails warns once, and training goes on; so connect with the first numbers, not before.
"""

import contextlib
import fcntl
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from logger.visualization import Writer
from parse_config import ConfigParser
from utils import ROOT, Stopped, replacing


class MLflow(Writer):
    """Sends parameters and numbers to MLflow; a run that is continued goes on in its own run there.

    Args:
        config: of the run.
        uri: of the tracking server, or of a database; None: that of MLFLOW_TRACKING_URI, else
            `mlflow.db` in `trainer.save_dir`.
        experiment: its name there; None: the config's name.
    """

    def __init__(self, config: ConfigParser, uri: str | None = None, experiment: str | None = None) -> None:
        self.config, self.experiment = config, experiment or config.settings.name
        database = f"sqlite:///{ROOT / config.settings.trainer.save_dir / 'mlflow.db'}"
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or database
        self.client: Any = None
        self.run_id = ""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send them; those of an epoch at the epoch's number."""
        from mlflow.entities import Metric

        self.client = self.client or self._begin()
        step, now = int(numbers.get("epoch", step)), int(1000 * time.time())
        # An epoch's have names of their own, because their steps are epochs.
        prefix = "epoch/" if "epoch" in numbers else ""
        metrics = [Metric(_named(prefix + name), float(value), now, step) for name, value in numbers.items()]
        self.client.log_batch(self.run_id, metrics=[metric for metric in metrics if metric.key != "epoch/epoch"])

    def _begin(self) -> Any:
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        for name, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "10")):  # training waits for it
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        run = self.config.run
        note = run.folder / "mlflow.txt"  # which run there is ours
        with _alone(self.uri):
            client = MlflowClient(self.uri)
            try:
                self.run_id = note.read_text(encoding="utf-8").strip()
                client.update_run(self.run_id, "RUNNING")
                self._tell_changes(client)
                return client
            except (FileNotFoundError, MlflowException):  # there is none, or no more
                found = client.get_experiment_by_name(self.experiment)
                there = found.experiment_id if found else client.create_experiment(self.experiment)
        self.run_id = client.create_run(there, run_name=run.folder.name).info.run_id
        params = [Param(_named(name), str(value)[:6000]) for name, value in self.config.flat().items()]
        for start in range(0, len(params), 100):  # as many as it takes at once
            client.log_batch(self.run_id, params=params[start : start + 100])
        with replacing(note, "w") as file:
            file.write(self.run_id)
        return client

    def _tell_changes(self, client: Any) -> None:
        """What a continued run has other than at its start, as tags: parameters cannot change there."""
        known = client.get_run(self.run_id).data.params
        for name, value in self.config.flat().items():
            if known.get(_named(name)) != str(value)[:6000]:
                client.set_tag(self.run_id, _named(name), str(value)[:5000])

    def close(self) -> None:
        """Say that the run has ended, for now, and how."""
        if self.client is not None:
            error = sys.exc_info()[0]
            stopped = error is not None and issubclass(error, Stopped | KeyboardInterrupt)
            self.client.set_terminated(self.run_id, "KILLED" if stopped else "FAILED" if error else "FINISHED")


def _named(name: str) -> str:
    """A name without what MLflow takes in none, such as acc@1."""
    return re.sub(r"[^\w\-. :/]", "_", name)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Several runs of one sweep would make the tables of a database at the same time, and most would fail."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{database}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class WandB(Writer):
    """Sends configuration and numbers to Weights & Biases; a run that is continued goes on in its own run there.

    Args:
        config: of the run.
        project: its name there; None: the config's name.
        mode: "online", or "offline" (into the run's log folder, for `wandb sync`); None: that of WANDB_MODE.
    """

    def __init__(self, config: ConfigParser, project: str | None = None, mode: str | None = None) -> None:
        self.config, self.mode = config, mode
        self.project = re.sub(r"[/\\#?%:]", "-", project or config.settings.name)
        self.run: Any = None

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send them, with the step as a number of its own: those of a run that goes back may come again."""
        if self.run is None:
            import wandb

            folder, where = self.config.run.folder, self.config.log_dir
            note = folder / "wandb.txt"  # which run there is ours
            if not note.exists():
                with replacing(note, "w") as file:
                    file.write(uuid.uuid4().hex[:16])
            name = note.read_text(encoding="utf-8").strip()
            settings: Any = {"project": self.project, "name": folder.name, "mode": self.mode, "dir": str(where)}
            settings["settings"] = wandb.Settings(init_timeout=30)  # training waits for it
            hook = sys.excepthook  # which wandb replaces, and errors would be told at length
            self.run = wandb.init(id=name, resume="allow", config=self.config.snapshot(), **settings)
            sys.excepthook = hook
            self.run.define_metric("*", step_metric="step")
        self.run.log({**numbers, "step": step})

    def close(self) -> None:
        """Send what is pending."""
        if self.run is not None:
            self.run.finish(exit_code=1 if sys.exc_info()[0] else 0)
