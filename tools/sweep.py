"""Try many settings of a config: python tools/sweep.py sweep.json --workers 2

{
    "config": "config.json",
    "set": {"trainer.epochs": 5},
    "space": {"optimizer.args.lr": {"low": 1e-4, "high": 0.1, "log": true}, "data_loader.args.batch_size": [32, 64]},
    "method": "tpe",
    "points": 20,
    "prune_from": 2
}
"""

import argparse
import contextlib
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.checkpoints import run_folder
from machinery.config.source import Source
from machinery.errors import ConfigError, StorageError
from machinery.files import ensure_dir, shown, write_json
from machinery.telling import catch_user_errors, printable

try:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

    from tools.sweeping.point import Outcome, die_with_parent, run_point
    from tools.sweeping.report import report
    from tools.sweeping.spec import SWEEPS, decoded, read_spec
    from tools.sweeping.storage import opened, reaching
except ImportError as error:
    raise SystemExit(f"error: {error}; pip install -r requirements-tools.txt") from None


class Sweep:
    """A sweep and the points it has tried so far.

    Args:
        file: its JSON file.
        name: of its folder in saved/sweeps; by default the file's.
        storage: a database's URL; by default a journal in the folder.
        save_dir: where sweeps go.
        retry: try points that have failed again.
    """

    def __init__(self, file: Path, name: str | None, storage: str | None, save_dir: Path, retry: bool = False) -> None:
        self.spec, given, self.run_name, self.monitor = read_spec(file)
        self.name = name or file.stem
        try:
            run_folder.check_run_id(self.name)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--run_id", "--name")) from None
        self.folder, self.apart = save_dir / self.name, storage is not None
        #: A copy, so that all points are of one config.
        self.config = self.folder.resolve() / ".config.json"
        ensure_dir(self.folder)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.locked("sweep"):
            with reaching(storage, self.folder / "journal.log"):
                self.study = self._study(opened(storage, self.folder / "journal.log"))
                values = {key: value for key, value in Source.read(given).values.items() if key != "$schema"}
                self._check_same(values)
                self._list_points()
            write_json(values, self.config)
            trials = self.study.get_trials(deepcopy=False)
            # A try that a kill has left before it began is none.
            begun = [trial for trial in trials if trial.state != TrialState.FAIL or trial.params]
            tried_again = {trial.user_attrs.get("retry_of") for trial in begun}
            for trial in trials if retry else ():
                if trial.state == TrialState.FAIL and trial.params and trial.number not in tried_again:
                    self.study.enqueue_trial(trial.params, {"retry_of": trial.number})

    def _study(self, storage: "BaseStorage") -> "optuna.Study":
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.spec.prune_from is not None:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=self.spec.prune_from)
        direction = "minimize" if self.monitor.startswith("min ") else "maximize"
        options: Any = {"direction": direction, "pruner": pruner, "load_if_exists": True}
        return optuna.create_study(storage=storage, study_name=self.name, **options)

    def _check_same(self, values: dict[str, Any]) -> None:
        """Refuse to mix the points of two sweeps."""
        what = json.loads(self.spec.model_dump_json(exclude={"points", "prune_from"}))
        what |= {"monitor": self.monitor, "content of the config": values}
        before = self.study.user_attrs.setdefault("sweep", what)
        if before != what:
            known = before if isinstance(before, dict) else {}
            other = ", ".join(key for key in what if known.get(key) != what[key])
            raise ConfigError(f"{self.folder} is of a sweep with another {other}: give this one a --name of its own")
        self.study.set_user_attr("sweep", what)

    def _list_points(self) -> None:
        """Put the points of a grid, or those that are drawn at random, in line, as often as they are listed."""
        trials = self.study.get_trials(deepcopy=False)
        begun = [
            trial for trial in trials if trial.state != TrialState.FAIL or set(trial.params) == set(self.spec.space)
        ]
        there = Counter(json.dumps(trial.system_attrs.get("fixed_params")) for trial in begun)
        for point in self.spec.listed() or ():
            there[json.dumps(point)] -= 1
            if there[json.dumps(point)] < 0:
                self.study.enqueue_trial(point)

    @contextlib.contextmanager
    def locked(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock of this sweep; of others on the same disk, one at a time does. False if it is taken."""
        file = self.folder / f".{name}.lock"
        try:  # a link that stands there is not followed
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise StorageError(f"{file} cannot be written: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield True
        finally:
            os.close(descriptor)

    def next_point(self) -> "FrozenTrial | None":
        """A point that was left unfinished, or a new one; None if there is nothing more to do."""
        trials = self.study.get_trials(deepcopy=False)
        complete = set(self.spec.space)
        for trial in trials:
            if trial.state == TrialState.RUNNING and self._is_left(trial):
                if set(trial.params) == complete:
                    return trial
                self.study.tell(trial.number, state=TrialState.FAIL)  # it had not begun, and comes again
                self._list_points()
                return self.next_point()
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if self.spec.method == "tpe":
            tried = sum(set(trial.params) == complete and "retry_of" not in trial.user_attrs for trial in trials)
            if not waiting and tried >= (self.spec.points or 0):
                return None
            # A sampler of its own for each point: several workers would draw the same.
            seed = (self.spec.seed * 1_000_003 + len(trials)) % 2**32
            self.study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=max((self.spec.points or 0) // 4, 3), constant_liar=True
            )
        elif not waiting:
            return None
        number = self.study.ask(self.spec.distributions()).number
        found = self.study.get_trials(deepcopy=False)[number]
        self.study._storage.set_trial_user_attr(found._trial_id, "host", platform.node())
        return found

    def _is_left(self, trial: "FrozenTrial") -> bool:
        """Whether the process that tried a point is gone."""
        host = trial.user_attrs.get("host")
        # On another disk, somebody may be about to say that it is his; here, that is done under the lock.
        age = datetime.now() - (trial.datetime_start or datetime.now())
        young = self.apart and age < timedelta(seconds=60)
        if host not in (None, platform.node()) or (host is None and young):
            return False
        with self.locked(f"point-{trial.number:04}", wait=False) as free:
            return free

    def work(self, environment: dict[str, str]) -> None:
        """Try points until there are no more."""
        while True:
            with contextlib.ExitStack() as held:
                with self.locked("sweep"):
                    trial = self.next_point()
                    if trial is None:
                        return
                    held.enter_context(self.locked(f"point-{trial.number:04}"))
                self._try(trial, environment)

    def _try(self, trial: "FrozenTrial", environment: dict[str, str]) -> None:
        point = {key: decoded(value) for key, value in trial.params.items()}
        settings = {**self.spec.set, **point, "name": self.run_name, "trainer.monitor": self.monitor}
        settings["trainer.save_dir"] = str(self.folder.resolve())
        running, known = optuna.Trial(self.study, trial._trial_id), dict(trial.intermediate_values)

        def look(epoch: int, value: float) -> bool:
            if epoch not in known:
                running.report(value, epoch)
            return running.should_prune()

        folder = self.folder.resolve() / "models" / self.run_name / f"point-{trial.number:04}"
        outcome = run_point(self.config, settings, folder, environment, look)
        self._told(trial, point, outcome)

    def _told(self, trial: "FrozenTrial", point: dict[str, Any], outcome: "Outcome") -> None:
        storage, state = self.study._storage, {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        if outcome.message:
            storage.set_trial_user_attr(trial._trial_id, "error", outcome.message)
        value = outcome.value if outcome.state == "complete" else None
        self.study.tell(trial.number, value, state=state.get(outcome.state, TrialState.FAIL))
        what = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in point.items())
        got = f"{self.monitor.split()[1]} {outcome.value:.5g}" if outcome.value is not None else "no value"
        more = (
            "" if outcome.state == "complete" else f" ({outcome.state}{': ' * bool(outcome.message)}{outcome.message})"
        )
        print(printable(f"point {trial.number}: {what}: {got}{more}"), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Try many settings of a config; start it again to go on.")
    parser.add_argument("file", type=Path, help="the sweep: a JSON file, as at the top of tools/sweep.py")
    parser.add_argument("--name", help="of its folder in saved/sweeps; by default the file's name")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="points that are tried at once")
    parser.add_argument("--devices", metavar="LIST", help="GPUs to share out to the workers, such as 0,1,2,3")
    parser.add_argument("--storage", metavar="URL", help="a database, for workers on machines without a common disk")
    parser.add_argument("--save_dir", type=Path, default=SWEEPS, help=f"where sweeps go ({shown(SWEEPS)})")
    parser.add_argument("--retry", action="store_true", help="try points that have failed again")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.workers < 1:
        raise ConfigError(f"--workers {args.workers}: expected at least 1")
    if args.worker is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent passes it on
    sweep = Sweep(args.file, args.name, args.storage, args.save_dir, args.retry)
    if args.worker is None and args.workers > 1:
        _spread(args.workers)
    else:
        sweep.work(_environment(args.worker or 0, args.workers, args.devices))
    if args.worker is None:
        print(report(sweep.study, sweep.folder, sweep.monitor))
        if not any(trial.state == TrialState.COMPLETE for trial in sweep.study.get_trials(deepcopy=False)):
            raise SystemExit(1)


def _environment(worker: int, workers: int, devices: str | None) -> dict[str, str]:
    """A worker's share of the machine."""
    found = {} if workers == 1 else {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // workers, 1))}
    found = {name: os.environ.get(name, value) for name, value in found.items()}
    if devices is not None:
        found["CUDA_VISIBLE_DEVICES"] = devices.split(",")[worker % len(devices.split(","))]
    return found


def _spread(workers: int) -> None:
    """Several workers, each a process of this program."""
    words = [sys.executable, *(word for word in sys.argv if word != "--retry")]
    options: Any = {"preexec_fn": die_with_parent} if sys.platform == "linux" else {}
    processes = [subprocess.Popen([*words, "--worker", str(i)], **options) for i in range(workers)]
    asked: list[int] = []

    def stop(signum: int, _frame: Any) -> None:
        asked.append(signum)
        for process in processes:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGTERM)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
    if asked:
        raise SystemExit(130 if asked[0] == signal.SIGINT else 143)
    codes = [process.returncode for process in processes]
    if any(codes):
        raise SystemExit(max(codes, key=abs))


if __name__ == "__main__":
    catch_user_errors()
    try:
        main()
    except OSError as error:  # the journal, the table or a picture
        raise StorageError(f"{error.filename or 'the sweep'} cannot be written: {error.strerror}") from error
    except optuna.exceptions.StorageInternalError as error:  # a database that has gone, or is locked
        told = str(error.__cause__ or error).splitlines()[0]
        raise StorageError(f"the sweep's storage fails: {told}\n  start it again to go on") from error
