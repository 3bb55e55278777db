"""Try many settings of a config: python tools/sweep.py sweep.json --workers 2

{
    "config": "config.json",
    "set": {"trainer.epochs": 5},
    "space": {
        "optimizer.args.lr": {"low": 1e-4, "high": 0.1, "log": true},
        "data_loader.args.batch_size": [32, 64]
    },
    "method": "tpe",
    "points": 20,
    "prune_from": 2
}
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.checkpoints import run_folder
from machinery.errors import ConfigError, StorageError
from machinery.files import ensure_dir, shown, write_json
from machinery.telling import catch_user_errors, printable
from tools import children
from tools.history.records import POINT
from tools.history.tables import cell, labels

try:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

    from tools.sweeping.locks import locked
    from tools.sweeping.point import (
        Look,
        Outcome,
        goes_on,
        is_minimized,
        point_name,
        run_point,
        together,
        watched_name,
    )
    from tools.sweeping.report import report
    from tools.sweeping.spec import SWEEPS, decoded, read_spec
    from tools.sweeping.storage import opened, reaching
except ImportError as error:
    hint = f"{error}; pip install -r requirements-tools.txt"
    if error.name == "fcntl":
        hint = "sweeps need the file locks of Linux and macOS: there are none here"
    raise SystemExit(f"error: {hint}") from None

#: Points that are trained to their end before others are compared with them.
_COMPARED = 3
#: Within this time somebody on another disk may be about to say that a point is his.
_YOUNG = timedelta(seconds=60)


class Sweep:
    """A sweep and the points it has tried so far.

    Args:
        file: its JSON file.
        name: of its folder in saved/sweeps; by default the file's.
        storage: a database's URL; by default a journal in the folder.
        save_dir: where sweeps go.
        retry: try points that have failed again.
        repeat: with how many seeds each point is trained; None: as the file says.
    """

    def __init__(
        self,
        file: Path,
        name: str | None,
        storage: str | None,
        save_dir: Path,
        retry: bool = False,
        repeat: int | None = None,
    ) -> None:
        plan = read_spec(file, repeat)
        self.plan = plan
        self.spec = plan.spec
        self.run_name = plan.run_name
        self.monitor = plan.monitor
        self.name = name or file.stem
        _check_name(self.name)
        self.folder = save_dir / self.name
        #: Whether others may try its points on other disks.
        self.apart = storage is not None
        #: A copy, so that all points are of one config.
        self.config = self.folder.resolve() / ".config.json"
        ensure_dir(self.folder)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = self.folder / "journal.log"
        with self.locked("sweep"):
            with reaching(storage, journal):
                self.study = self._open_study(opened(storage, journal))
                self._check_same(plan.config)
                self._list_points()
            write_json(plan.config, self.config)
            if retry:
                self._list_failed()

    def _open_study(self, storage: "BaseStorage") -> "optuna.Study":
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.spec.prune_from is not None:
            pruner = optuna.pruners.MedianPruner(
                n_startup_trials=_COMPARED, n_warmup_steps=self.spec.prune_from
            )
        direction = optuna.study.StudyDirection.MAXIMIZE
        if is_minimized(self.monitor):
            direction = optuna.study.StudyDirection.MINIMIZE
        return optuna.create_study(
            storage=storage,
            pruner=pruner,
            study_name=self.name,
            direction=direction,
            load_if_exists=True,
        )

    def _check_same(self, config: dict[str, Any]) -> None:
        """Refuse to mix the points of two sweeps."""
        what = {
            **json.loads(self.spec.model_dump_json(exclude={"points", "prune_from"})),
            "monitor": self.monitor,
            "content of the config": config,
        }
        before = self.study.user_attrs.get("sweep", what)
        if not isinstance(before, dict):  # somebody else's study
            before = {}
        if before:
            before = {"repeat": 1, **before}
        if before != what:
            other = ", ".join(key for key in what if before.get(key) != what[key])
            raise ConfigError(
                f"{self.folder} is of a sweep with another {other}: "
                "give this one a --name of its own"
            )
        self.study.set_user_attr("sweep", what)

    def _trials(self) -> "list[FrozenTrial]":
        return self.study.get_trials(deepcopy=False)

    def _is_whole(self, trial: "FrozenTrial") -> bool:
        """Whether all settings of a point have been noted: from then on it is trained."""
        return trial.params.keys() == self.spec.space.keys()

    def _counts(self, trial: "FrozenTrial") -> bool:
        """Whether a point is done, or comes; one that a kill has left before it began is none."""
        return trial.state != TrialState.FAIL or self._is_whole(trial)

    def _list_points(self) -> None:
        """Put the points of a grid, or those that are drawn at random, in line.

        Each comes as often as it is listed.
        """
        there: Counter[str] = Counter()
        for trial in self._trials():
            if self._counts(trial):
                there[json.dumps(trial.system_attrs.get("fixed_params"))] += 1
        for point in self.spec.listed():
            key = json.dumps(point)
            there[key] -= 1
            if there[key] < 0:
                self.study.enqueue_trial(point)

    def _list_failed(self) -> None:
        """Put the points that have failed, and were not tried again, in line."""
        trials = [trial for trial in self._trials() if self._counts(trial)]
        tried_again = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.number not in tried_again:
                self.study.enqueue_trial(trial.params, {"retry_of": trial.number})

    def locked(self, name: str, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
        """Hold a lock of this sweep; without `wait`, it is False if somebody else does."""
        return locked(self.folder / f".{name}.lock", wait)

    def next_point(self) -> "FrozenTrial | None":
        """A point that was left unfinished, or a new one; None if there is nothing more to do."""
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        for trial in running:
            if not self._is_left(trial):
                continue
            if self._is_whole(trial):
                return trial
            self.study.tell(
                trial.number, state=TrialState.FAIL
            )  # it had not begun, and comes again
            self._list_points()
        return self._new_point()

    def _is_left(self, trial: "FrozenTrial") -> bool:
        """Whether the process that tried a point is gone."""
        host = trial.user_attrs.get("host")
        if host is None and self.apart:
            # On this disk that is said under the lock.
            started = trial.datetime_start or datetime.now()
            if datetime.now() - started < _YOUNG:
                return False
        if host is not None and host != platform.node():
            return False
        with self.locked(point_name(trial.number), wait=False) as free:
            return free

    def _new_point(self) -> "FrozenTrial | None":
        """The next in line, or one that follows from the others."""
        trials = self._trials()
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        if not waiting and not self._goes_on(trials):
            return None
        if self.spec.method == "tpe":
            # A sampler of its own for each point: several workers would draw the same.
            self.study.sampler = optuna.samplers.TPESampler(
                seed=(self.spec.seed * 1_000_003 + len(trials)) % 2**32,
                n_startup_trials=max(self.spec.wanted // 4, 3),
                constant_liar=True,
            )
        asked = self.study.ask(self.spec.distributions())
        asked.set_user_attr("host", platform.node())
        return self._trials()[asked.number]

    def _goes_on(self, trials: "list[FrozenTrial]") -> bool:
        """Whether there are to be more points than were ever in line."""
        if self.spec.method != "tpe":
            return False
        tried = 0
        for trial in trials:
            if self._is_whole(trial) and "retry_of" not in trial.user_attrs:
                tried += 1
        return tried < self.spec.wanted

    def work(self, environment: dict[str, str]) -> None:
        """Try points until there are no more.

        Args:
            environment: variables for their processes.
        """
        while True:
            with contextlib.ExitStack() as held:
                with self.locked("sweep"):
                    trial = self.next_point()
                    if trial is None:
                        return
                    held.enter_context(self.locked(point_name(trial.number)))
                self._try(trial, environment)

    def _try(self, trial: "FrozenTrial", environment: dict[str, str]) -> None:
        """Train a point, and note what came out."""
        point = {key: decoded(choice) for key, choice in trial.params.items()}
        folder = self.folder.resolve()
        settings = {
            **self.spec.set,
            **point,
            "name": self.run_name,
            "trainer.monitor": self.monitor,
            "trainer.save_dir": str(folder),
        }
        # Optuna gives a point that was begun to nobody else: its id is the only way to it.
        running = optuna.Trial(self.study, trial._trial_id)
        known = set(trial.intermediate_values)

        def look(epoch: int, value: float) -> bool:
            if epoch not in known:
                running.report(value, epoch)
            return running.should_prune()

        outcome = self._train(trial.number, settings, environment, look)
        self._note(running, outcome)
        print(printable(_told(trial.number, point, outcome, self.monitor)), flush=True)

    def _train(
        self, number: int, settings: dict[str, Any], environment: dict[str, str], look: "Look"
    ) -> "Outcome":
        """Train a point with each of its seeds; what has come out together.

        Args:
            look: may stop the first of these trainings.
        """
        models = self.folder.resolve() / "models" / self.run_name
        outcomes: list[Outcome] = []
        for repeat in range(self.spec.repeat):
            run = models / point_name(number, repeat)
            given = {**settings, **self.plan.settings_of(repeat)}
            outcomes.append(run_point(self.config, given, run, environment, look))
            self._mark(run, number, outcomes[-1])
            if outcomes[-1].state != "complete":
                break
            look = goes_on
        return together(outcomes)

    def _mark(self, run: Path, number: int, outcome: "Outcome") -> None:
        """Say in the folder of a point's run that it is one, for whoever lists runs."""
        if run.is_dir():
            content = {
                "sweep": self.name,
                "point": number,
                "state": outcome.state,
                "value": outcome.value,
                "space": list(self.spec.space),
            }
            write_json(content, run / POINT)

    def _note(self, trial: "optuna.Trial", outcome: "Outcome") -> None:
        """Note how a point has ended."""
        if outcome.message:
            trial.set_user_attr("error", outcome.message)
        if outcome.value is not None:
            trial.set_user_attr("value", outcome.value)
        if outcome.values:
            trial.set_user_attr("values", list(outcome.values))
        if outcome.state == "complete":
            self.study.tell(trial.number, outcome.value, state=TrialState.COMPLETE)
        elif outcome.state == "pruned":
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, state=TrialState.FAIL)


def _check_name(name: str) -> None:
    try:
        run_folder.check_run_id(name)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--run_id", "--name")) from None


def _told(number: int, point: dict[str, Any], outcome: "Outcome", monitor: str) -> str:
    """The line that tells how a point has ended."""
    names = labels(list(point))
    settings = ", ".join(f"{names[key]} {cell(value)}" for key, value in point.items())
    got = "no value"
    if outcome.value is not None:
        got = f"{watched_name(monitor)} {outcome.value:.5g}"
    if outcome.deviation is not None:
        got += f" ± {outcome.deviation:.2g}"
    line = f"point {number}: {settings}: {got}"
    if outcome.state == "complete":
        return line
    if outcome.message:
        return f"{line} ({outcome.state}: {outcome.message})"
    return f"{line} ({outcome.state})"


def main() -> None:
    """The command line."""
    args = _arguments()
    if args.workers < 1:
        raise ConfigError(f"--workers {args.workers}: expected at least 1")
    if args.worker is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent passes it on
    if args.repeat is not None and args.repeat < 1:
        raise ConfigError(f"--repeat {args.repeat}: expected at least 1")
    sweep = Sweep(args.file, args.name, args.storage, args.save_dir, args.retry, args.repeat)
    if args.worker is not None:
        sweep.work(_environment(args.worker, args.workers, args.devices))
        return
    if args.workers > 1:
        _spread(args.workers)
    else:
        sweep.work(_environment(0, args.workers, args.devices))
    print(report(sweep.study, sweep.folder, sweep.monitor))
    if not sweep.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        raise SystemExit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Try many settings of a config; start it again to go on."
    )
    file = "the sweep: a JSON file, as at the top of tools/sweep.py"
    parser.add_argument("file", type=Path, help=file)
    name = "of its folder in saved/sweeps; by default the file's name"
    parser.add_argument("--name", help=name)
    workers = "points that are tried at once"
    parser.add_argument("--workers", type=int, default=1, metavar="N", help=workers)
    devices = "GPUs to share out to the workers, such as 0,1,2,3"
    parser.add_argument("--devices", metavar="LIST", help=devices)
    storage = "a database, for workers on machines without a common disk"
    parser.add_argument("--storage", metavar="URL", help=storage)
    save_dir = f"where sweeps go ({shown(SWEEPS)})"
    parser.add_argument("--save_dir", type=Path, default=SWEEPS, help=save_dir)
    retry = "try points that have failed again"
    parser.add_argument("--retry", action="store_true", help=retry)
    repeat = "train each point with so many seeds; its value is their mean"
    parser.add_argument("--repeat", type=int, metavar="N", help=repeat)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _environment(worker: int, workers: int, devices: str | None) -> dict[str, str]:
    """A worker's share of the machine, as variables of its processes."""
    found = {}
    if workers > 1:
        threads = max((os.cpu_count() or 1) // workers, 1)
        found["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
    if devices is not None:
        names = devices.split(",")
        found["CUDA_VISIBLE_DEVICES"] = names[worker % len(names)]
    return found


def _spread(workers: int) -> None:
    """Several workers, each a process of this program."""
    words = [sys.executable, *(word for word in sys.argv if word != "--retry")]
    processes = []
    for number in range(workers):
        command = [*words, "--worker", str(number)]
        processes.append(subprocess.Popen(command, **children.options()))
    # They kill what hangs at a second signal.
    with children.passing_on(processes, at_second=signal.SIGTERM):
        codes = [children.code_of(process) for process in processes]
    if any(codes):
        raise SystemExit(max(codes))


if __name__ == "__main__":
    catch_user_errors()
    try:
        main()
    except OSError as error:  # the journal, the table or a picture
        where = error.filename or "the sweep"
        raise StorageError(f"{where} cannot be written: {error.strerror}") from error
    except optuna.exceptions.StorageInternalError as error:  # a database that is gone, or locked
        told = str(error.__cause__ or error).splitlines()[0]
        raise StorageError(
            f"the sweep's storage fails: {told}\n  start it again to go on"
        ) from error
