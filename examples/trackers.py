"""Trackers: `--set 'trainer.trackers=["examples.trackers.MLflow"]'`, or a component with args.

One of your own is a class like these, here or in a module of `trainer/`: "trainer.mine.MyTracker".
It gets the config first. One that fails warns once, and training goes on; so connect with the first
numbers, not before.
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
from utils import Stopped, replacing


class MLflow(Writer):
    """Sends parameters and numbers to MLflow; a run that is continued goes on in its own run there.

    Args:
        config: of the run.
        uri: of the tracking server, or of a database; None: that of MLFLOW_TRACKING_URI, else
            `mlflow.db` where the runs are, in `trainer.save_dir`.
        experiment: its name there; None: the config's name.
    """

    def __init__(
        self, config: ConfigParser, uri: str | None = None, experiment: str | None = None
    ) -> None:
        self.config = config
        self.experiment = experiment or config.settings.name
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self.client: Any = None
        self.run_id = ""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send them; those of an epoch at the epoch's number."""
        from mlflow.entities import Metric

        if self.client is None:
            self.client = self._connect()
        now = int(1000 * time.time())
        prefix = ""
        if "epoch" in numbers:
            # An epoch's have names of their own, because their steps are epochs.
            prefix = "epoch/"
            step = int(numbers["epoch"])
        metrics = []
        for name, value in numbers.items():
            if name != "epoch":
                metrics.append(Metric(_named(prefix + name), float(value), now, step))
        self.client.log_batch(self.run_id, metrics=metrics)

    def _connect(self) -> Any:
        """MLflow's client, once there is a run to send to."""
        from mlflow import MlflowClient

        # Training waits for it.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        note = self.config.run.folder / "mlflow.txt"  # which run there is ours
        # Not what the config says of it: that may be a checkpoint's of somebody else.
        runs = self.config.run.folder.parent.parent.parent
        uri = self.uri or f"sqlite:///{runs / 'mlflow.db'}"
        with _alone(uri):
            client = MlflowClient(uri)
            if self._goes_on(client, note):
                return client
            experiment = self._experiment_id(client)
        self._begin(client, experiment)
        with replacing(note, "w") as file:
            file.write(self.run_id)
        return client

    def _goes_on(self, client: Any, note: Path) -> bool:
        """Go on in the run that is ours; False if there is none, or no more."""
        from mlflow.exceptions import MlflowException

        try:
            self.run_id = _noted(note)
            client.update_run(self.run_id, "RUNNING")
            self._tell_changes(client)
        except (FileNotFoundError, MlflowException):
            return False
        return True

    def _tell_changes(self, client: Any) -> None:
        """What a continued run has other than at its start, as tags.

        Parameters cannot change there.
        """
        known = client.get_run(self.run_id).data.params
        for name, value in self.config.flat().items():
            if known.get(_named(name)) != str(value)[:6000]:
                client.set_tag(self.run_id, _named(name), str(value)[:5000])

    def _experiment_id(self, client: Any) -> str:
        """That of the experiment of our name, which is made if it is not there."""
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            return client.create_experiment(self.experiment)
        return found.experiment_id

    def _begin(self, client: Any, experiment: str) -> None:
        """Begin a run there, with the config as its parameters."""
        from mlflow.entities import Param

        run = client.create_run(experiment, run_name=self.config.run.folder.name)
        self.run_id = run.info.run_id
        params = []
        for name, value in self.config.flat().items():
            params.append(Param(_named(name), str(value)[:6000]))
        for start in range(0, len(params), 100):  # as many as it takes at once
            client.log_batch(self.run_id, params=params[start : start + 100])

    def close(self) -> None:
        """Say that the run has ended, for now, and how."""
        if self.client is None:
            return
        error = sys.exc_info()[0]
        if error is None:
            status = "FINISHED"
        elif issubclass(error, Stopped | KeyboardInterrupt):
            status = "KILLED"
        else:
            status = "FAILED"
        self.client.set_terminated(self.run_id, status)


def _noted(note: Path) -> str:
    """Which run is ours, as noted.

    Raises:
        FileNotFoundError: there is no such file; a link or a pipe is none.
    """
    if note.is_symlink() or not note.is_file():
        raise FileNotFoundError(f"{note} is no file")
    return note.read_text(encoding="utf-8").strip()


def _named(name: str) -> str:
    """A name without what MLflow takes in none, such as acc@1."""
    return re.sub(r"[^\w\-. :/]", "_", name)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Within it, no other process makes the tables of a database.

    Several runs of one sweep would do so at the same time, and most would fail.
    """
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{database}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class WandB(Writer):
    """Sends configuration and numbers to Weights & Biases.

    A run that is continued goes on in its own run there.

    Args:
        config: of the run.
        project: its name there; None: the config's name.
        mode: "online", or "offline" (into the run's log folder, for `wandb sync`); None: that of
            WANDB_MODE.
    """

    def __init__(
        self, config: ConfigParser, project: str | None = None, mode: str | None = None
    ) -> None:
        self.config = config
        self.project = re.sub(r"[/\\#?%:]", "-", project or config.settings.name)
        self.mode = mode
        self.run: Any = None

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send them with the step as a number: those of a run that goes back may come again."""
        if self.run is None:
            self._begin()
        self.run.log({**numbers, "step": step})

    def _begin(self) -> None:
        """Begin a run there, or go on in ours."""
        import wandb

        hook = sys.excepthook  # which wandb replaces, and errors would be told at length
        settings: Any = {
            "id": self._run_id(),
            "resume": "allow",
            "project": self.project,
            "name": self.config.run.folder.name,
            "config": self.config.snapshot(),
            "mode": self.mode,
            "dir": str(self.config.log_dir),
            "settings": wandb.Settings(init_timeout=30),  # training waits for it
        }
        self.run = wandb.init(**settings)
        sys.excepthook = hook
        self.run.define_metric("*", step_metric="step")

    def _run_id(self) -> str:
        """Which run there is ours: drawn once."""
        note = self.config.run.folder / "wandb.txt"
        if not note.exists():
            with replacing(note, "w") as file:
                file.write(uuid.uuid4().hex[:16])
        return _noted(note)

    def close(self) -> None:
        """Send what is pending."""
        if self.run is None:
            return
        exit_code = 0
        if sys.exc_info()[0] is not None:
            exit_code = 1
        self.run.finish(exit_code=exit_code)
