"""What a checkpoint holds of a trainer, and how a run is saved, found again and restored from it."""

import contextlib
import fnmatch
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.monitor import Monitor
from utils import checkpoint, environment, run_folder
from utils.errors import CheckpointError, ConfigError, DataError, Stopped, StorageError, UserError
from utils.files import write_json
from utils.runtime import unwrap

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer
    from parse_config import ConfigParser

#: Schedulers that set the learning rate from their own settings at every step.
OWNS_RATE = ("OneCycleLR", "CyclicLR")


def stateful(trainer: "BaseTrainer") -> dict[str, Any]:
    """The trainer's attributes that have a state, by name, without the model; also in lists, tuples and dicts."""
    found: dict[str, Any] = {}
    seen = {id(unwrap(trainer.model))}

    def visit(name: str, value: Any) -> None:
        value = unwrap(value) if isinstance(value, nn.Module) else value
        if isinstance(value, dict | list | tuple) and not isinstance(value, str):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                visit(f"{name}.{key}", item)
        elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict") and id(value) not in seen:
            seen.add(id(value))
            found[name] = value

    for name, value in vars(trainer).items():
        if name not in ("model", "config"):
            visit(name, value)
    return found


class Checkpoints:
    """The checkpoints of one run.

    Args:
        config: says where the run's folder is, and which checkpoint to start from.
        model: the network that the weights are for.

    Raises:
        CheckpointError: the checkpoint to start from is damaged or does not fit the model.
    """

    def __init__(self, config: "ConfigParser", model: nn.Module) -> None:
        self.config = config
        self.logger = config.get_logger("checkpoint", config["trainer"]["verbosity"])
        self._state: dict[str, Any] | None = config.take_checkpoint()
        #: Once: asking git takes milliseconds, and the code that runs is that of the start.
        self._environment = {} if config.evaluating else environment.describe(_device(model))
        self._newest: Path | None = config.resume if self._state and not config.fine_tune else None
        if self._state is not None:
            self._check_model(unwrap(model), self._state)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.save_dir

    def _check_model(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Refuse weights that don't fit, before anything is loaded."""
        saved = state["state_dict"]
        if self.config.fine_tune:
            skip = self.config["arch"].get("skip") or []
            kept = {name: value for name, value in model.state_dict().items() if not _matches(name, skip)}
            saved = {name: value for name, value in saved.items() if not _matches(name, skip)}
            problems = checkpoint.mismatches(kept, saved)
            names = [n for n in {**kept, **saved} if n not in kept or n not in saved or kept[n].shape != saved[n].shape]
            patterns = sorted({name.rpartition(".")[0] + ".*" if "." in name else name for name in names})
            advice = f'\n  to leave them out: "arch": {{"skip": {patterns}}}'.replace("'", '"')
        else:
            problems, advice = checkpoint.mismatches(model.state_dict(), saved), ""
            if state["arch"] != type(model).__name__:
                problems.insert(0, f"arch {state['arch']} -> {type(model).__name__}")
        if problems:
            lines = "\n  ".join(problems)
            raise CheckpointError(f"{self.config.resume} does not fit the model:\n  {lines}{advice}")

    def restore(self, trainer: "BaseTrainer") -> tuple[int, int, float]:
        """Load the checkpoint into the trainer and its parts.

        Returns:
            the epoch to go on with, how many of its batches are done, and the last learning rate.

        Raises:
            CheckpointError: a part does not fit; nothing has been loaded then.
        """
        state, self._state = self._state, None
        if state is None:
            return 1, 0, float("nan")
        parts = {} if self.config.fine_tune else self._fitting_parts(trainer, state)
        model, weights = unwrap(trainer.model), state["state_dict"]
        if self.config.fine_tune:
            skip = self.config["arch"].get("skip") or []
            weights = {name: value for name, value in weights.items() if not _matches(name, skip)}
        model.load_state_dict(weights, strict=not self.config.fine_tune)
        if self.config.fine_tune:
            self.logger.info(f"weights from {self.config.resume}")
            return 1, 0, float("nan")
        for part, part_state in parts.values():
            part.load_state_dict(part_state)
        if self.config.evaluating:
            return 1, 0, float("nan")
        self._apply_changes(trainer)
        self._compare(trainer, state)
        step = state["progress"]["step"]
        self.logger.info(f"resuming from {self.config.resume}")
        for name in run_folder.set_aside_later(self.folder, self.config.resume or Path()):
            self.logger.warning(f"{name} is of a later time: renamed {name}.old")
        self._catch_up_best(trainer, state)
        epoch = state["epoch"] + (step is None)
        return epoch, step or 0, state["progress"]["lr"]

    def _fitting_parts(self, trainer: "BaseTrainer", state: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """The trainer's parts and their saved states, after checking that each fits."""
        states = {**state["states"], "optimizer": state["optimizer"]}
        parts = {name: part for name, part in stateful(trainer).items() if part is not None}
        if self.config.evaluating:  # optimizers and progress don't matter then
            parts = {name: part for name, part in parts.items() if isinstance(part, nn.Module) and name in states}
        else:
            problems = checkpoint.mismatches(
                dict.fromkeys(parts), {name: None for name in states if name in parts or name != "optimizer"}
            )
            if problems:
                raise CheckpointError(
                    f"{self.config.resume} holds other parts than this trainer:\n  " + "\n  ".join(problems)
                )
        problems = []
        for name, part in parts.items():
            saved_class = state["classes"].get(name)
            if saved_class != type(part).__name__:
                problems.append(f"{name}: {saved_class} -> {type(part).__name__}")
            elif isinstance(part, nn.Module):
                problems += [f"{name}: {line}" for line in checkpoint.mismatches(part.state_dict(), states[name])]
            elif isinstance(part, torch.optim.Optimizer):
                problems += _optimizer_problems(name, part, states[name])
            elif hasattr(part, "total_steps") and part.total_steps != states[name].get("total_steps"):
                raise ConfigError(
                    f"{name}: a {saved_class} made for {states[name].get('total_steps')} steps cannot become one of "
                    f"{part.total_steps} under way: keep the epochs, or start a new run with -c and -r"
                )
        if problems:
            raise CheckpointError(f"{self.config.resume} does not fit:\n  " + "\n  ".join(problems))
        return {name: (part, states[name]) for name, part in parts.items()}

    def _apply_changes(self, trainer: "BaseTrainer") -> None:
        """Give the optimizer what the command line changed of its arguments; loading its state has undone that."""
        for path, old, new in self.config.changes:
            self.logger.info(f"{path} {old} -> {new} (command line)")
            section, _, key = path.rpartition(".")
            if section != "optimizer.args":
                continue
            scheduler = getattr(trainer, "lr_scheduler", None)
            if key == "lr" and type(scheduler).__name__ in OWNS_RATE:
                name = "max_lr"
                raise ConfigError(
                    f"the learning rate follows {type(scheduler).__name__}: a running cycle cannot take --lr; "
                    f"start a new run with lr_scheduler.args.{name}"
                )
            for group in trainer.optimizer.param_groups:
                group[key] = new
                if key == "lr" and "initial_lr" in group:
                    group["initial_lr"] = new
            if key == "lr" and scheduler is not None and hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [new for _ in scheduler.base_lrs]

    def _compare(self, trainer: "BaseTrainer", state: dict[str, Any]) -> None:
        """Refuse what would silently train on other data, warn of what may change bits."""
        saved, now = state["progress"], _fixed(trainer)
        other = [f"{name} {saved[name]} -> {now[name]}" for name in now if name in saved and saved[name] != now[name]]
        if saved["step"] is None:  # between epochs these may change
            other = [line for line in other if line.split()[0] not in ("batch_size", "accumulate", "batches")]
        if other:
            raise CheckpointError(f"{self.config.resume} cannot be continued with {'; '.join(other)}")
        for line in environment.differences(state["environment"], self._environment):
            self.logger.warning(f"the continued run may differ in the last bits: {line}")

    def _catch_up_best(self, trainer: "BaseTrainer", state: dict[str, Any]) -> None:
        """Write the best again where a kill came between the epoch's file and it."""
        best = self.folder / run_folder.BEST
        if trainer.monitor.best_epoch == state["epoch"] and state["progress"]["step"] is None and self.config.resume:
            if self.config.resume != best and (
                checkpoint.damage(best) or checkpoint.load(best)["epoch"] != state["epoch"]
            ):
                checkpoint.copy(self.config.resume, best)

    def state_of(self, trainer: "BaseTrainer", epoch: int, step: int | None, finished: bool) -> dict[str, Any]:
        """Everything that a run needs to go on, as plain data."""
        parts = stateful(trainer)
        return {
            "format_version": checkpoint.FORMAT_VERSION,
            "arch": type(unwrap(trainer.model)).__name__,
            "epoch": epoch,
            "state_dict": unwrap(trainer.model).state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "monitor_best": trainer.monitor.best,
            "config": self.config.config,
            "progress": {"step": step, "finished": finished, "lr": trainer.lr, **_fixed(trainer)},
            "states": {name: part.state_dict() for name, part in parts.items() if name != "optimizer"},
            "classes": {name: type(part).__name__ for name, part in parts.items()},
            "environment": self._environment,
        }

    def save(
        self, trainer: "BaseTrainer", epoch: int, step: int | None, due: bool, improved: bool, finished: bool
    ) -> None:
        """Write the checkpoint of this moment if it is `due`, and the best if it `improved`.

        Raises:
            StorageError: it could not be written; the checkpoints that were there are as they were.
        """
        if not due and not improved:
            return
        state = self.state_of(trainer, epoch, step, finished)
        path = self.folder / run_folder.checkpoint_name(epoch, step)
        best = self.folder / run_folder.BEST
        try:
            self._remake()
            if due:
                checkpoint.save(state, path)
                self._newest = path
            if improved:
                checkpoint.copy(path, best) if due else checkpoint.save(state, best)
        except StorageError as error:
            raise StorageError(f"{error}{self._safe(state)}") from error
        run_folder.prune(self.folder, self.config["trainer"]["keep_last"])
        self._status("running", epoch=epoch, step=step)

    def _safe(self, state: dict[str, Any]) -> str:
        """How much space was wanted, and what is intact, for an error message."""
        needed = checkpoint.size_of(state) / 1e6
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.folder).free / 1e6
            intact = f"; {self._newest.name} is intact" if self._newest else "; there is no earlier checkpoint"
            return f" (needs about {needed:.0f} MB, {free:.0f} MB free){intact}"
        return ""

    @contextlib.contextmanager
    def owned(self, trainer: "BaseTrainer") -> Iterator[None]:
        """Own the run folder for the time of the training, and leave its outcome in status.json."""
        try:
            run_folder.sweep(self.folder)
            self._preflight(trainer)
            write_json(self._environment, self.folder / "environment.json")
            self._status("running")
            yield
            self._status("finished", epoch=trainer.epoch, exit_code=0)
        except BaseException as error:
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            code = error.exit_code if isinstance(error, UserError) else 130 if stopped else 1
            with contextlib.suppress(UserError, OSError):
                self._status(
                    "stopped" if stopped else "failed",
                    epoch=trainer.epoch,
                    step=trainer.step,
                    exit_code=code,
                    message=str(error) or type(error).__name__,
                )
            trainer.writer.close()
            if isinstance(error, DataError):
                raise DataError(f"{error}\n  {self.resume_hint()}") from error
            raise
        finally:
            if self.config.lock is not None:
                self.config.lock.close()

    def _preflight(self, trainer: "BaseTrainer") -> None:
        """Refuse to start where two checkpoints don't fit: the next one is written before an old one goes."""
        state = {"model": unwrap(trainer.model).state_dict(), "optimizer": trainer.optimizer.state_dict()}
        needed = 2 * checkpoint.size_of(state)
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise StorageError(
                    f"{self.folder} has {free / 1e6:.0f} MB free, and two checkpoints take {needed / 1e6:.0f} MB: "
                    "make room, or set trainer.save_dir"
                )

    def _remake(self) -> None:
        """Make the run folder again if somebody has removed it."""
        if not self.folder.exists():
            self.logger.warning(f"{self.folder} is gone: making it again")
            write_json(self.config.config, self.folder / "config.json")
            write_json(self._environment, self.folder / "environment.json")

    def _status(self, state: str, **fields: Any) -> None:
        write_json(
            {"state": state, **fields, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, self.folder / "status.json"
        )

    def resume_hint(self) -> str:
        """The line that says how to go on."""
        if self._newest is None:
            return "nothing had been saved yet"
        return f"resume: python train.py -r {_shown(self._newest)}"

    def summary(self, monitor: Monitor, epochs: int, done: int, idle: bool, fixed_length: bool) -> list[str]:
        """The last lines of a run: the best value, its file, and what to type next."""
        lines = []
        best = self.folder / run_folder.BEST
        if idle:
            early = monitor.exhausted and done < epochs
            what = "stopped early; raise trainer.early_stop" if early else "raise trainer.epochs"
            lines.append(f"nothing to do (epoch {done} of {epochs}); {what} to continue")
        if monitor.best_epoch:
            lines.append(f"best {monitor.name} {monitor.best:.4f} in epoch {monitor.best_epoch}: {_shown(best)}")
        newest = best if monitor.best_epoch else self._newest
        if newest is not None:
            lines.append(f"test:     python test.py -r {_shown(newest)}")
        if self._newest is not None and not fixed_length:
            lines.append(f"continue: python train.py -r {_shown(self._newest)} --set trainer.epochs={epochs * 2}")
        return lines


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _optimizer_problems(name: str, part: torch.optim.Optimizer, saved: dict[str, Any]) -> list[str]:
    sizes = [len(group["params"]) for group in part.param_groups]
    before = [len(group["params"]) for group in saved["param_groups"]]
    return [f"{name}: parameters in its groups {before} -> {sizes}"] if sizes != before else []


def _fixed(trainer: "BaseTrainer") -> dict[str, Any]:
    """What must be the same for a run to go on exactly: the seed, the data, and inside an epoch the batches."""
    loader = getattr(trainer, "data_loader", None)
    return {
        "seed": trainer.seed,
        "samples": getattr(loader, "n_samples", None),
        "validation_split": getattr(loader, "validation_split", None),
        "batch_size": getattr(loader, "batch_size", None),
        "accumulate": getattr(trainer, "accumulate", None),
        "batches": getattr(trainer, "len_epoch", None),
    }


def _device(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return None if parameter is None else parameter.device


def _shown(path: Path) -> str:
    """A path as a person types it: relative to the current folder where it is below."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
