"""How a run ends, or an evaluation: what is left beside the checkpoints, and what to do next."""

import logging
import math
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from machinery import distributed, secrets
from machinery.checkpoints import run_folder, stored
from machinery.checkpoints.commands import to_test
from machinery.checkpoints.parts import Held
from machinery.checkpoints.run import Run
from machinery.checkpoints.saving import Checkpoints
from machinery.config.settings import SECONDS
from machinery.errors import (
    ConfigError,
    DataError,
    LostError,
    NonFiniteError,
    Stopped,
    StorageError,
    UserError,
)
from machinery.files import shown
from machinery.stopping import deaf_to_workers
from machinery.telling import in_place_of, in_plain_words
from machinery.update.runtime import is_sharded
from machinery.update.watching import Monitor

#: What torch's optimizers say of gradients and parameters that they cannot take.
_CANNOT_TAKE = re.compile(
    r"not support (?:dense|sparse|complex)|not compatible with sparse|If capturable=True"
)


@contextmanager
def owned(
    checkpoints: Checkpoints,
    position: Callable[[], dict[str, Any]],
    save: Callable[[], None],
    to_log: Callable[[Path, str], None],
) -> Iterator[None]:
    """Own the run folder for the time of the training, and leave its outcome in status.json.

    Args:
        checkpoints: of the run.
        position: says where the run is.
        save: saves what has been trained, if it is whole.
        to_log: writes a message to the log files in a folder.
    """
    run = checkpoints.run
    try:
        yield
        checkpoints.end()
        run.status("finished", **position(), exit_code=0)
    except BaseException as raised:
        with deaf_to_workers():
            error = _settled(in_plain_words(raised), checkpoints)
            _save_before(error, checkpoints, save)
            told = worded(error, checkpoints)
            if isinstance(told, LostError):
                _end_silent_processes(told)
            if _another_has_failed(told, run):
                raise SystemExit(1) from told
            _leave_outcome(told, run, position(), to_log)
            raise told from told.__cause__
    finally:
        run.close()


def _settled(error: BaseException, checkpoints: Checkpoints) -> BaseException:
    """Wait for what is being written; its own error goes before that of a stop.

    Of several processes only a stop is known to all of them.
    """
    if not isinstance(error, Stopped):
        checkpoints.rest()
        return error
    try:
        checkpoints.settle()
    except UserError as of_writing:
        return of_writing
    checkpoints.end()
    return error


def _save_before(error: BaseException, checkpoints: Checkpoints, save: Callable[[], None]) -> None:
    """Lose nothing to an error that is not the weights', such as one of a file that is missing.

    Of several processes, the others would have to save with this one.
    """
    no_fault_of_theirs = isinstance(error, Exception | SystemExit)
    if not no_fault_of_theirs or isinstance(error, NonFiniteError | StorageError | Stopped):
        return
    before = checkpoints.newest
    if not checkpoints.run.stays or not distributed.alone():
        return
    try:
        save()
        checkpoints.settle()
    except Exception:  # the error that ends the run is the one to be told
        return
    if checkpoints.newest != before and not isinstance(error, DataError):  # which is worded so
        logging.getLogger("trainer").info(checkpoints.resume_hint())


def _end_silent_processes(error: LostError) -> None:
    """Kill the other processes if one does not answer: it would keep the launcher waiting."""
    if error.silent:
        distributed.end_others()


def _another_has_failed(error: BaseException, run: Run) -> bool:
    """Whether this process ends only because another one has failed, and said why."""
    if distributed.alone() or not run.begun:
        return False
    return isinstance(error, LostError | Stopped) and run.state() == "failed"


def _leave_outcome(
    error: BaseException,
    run: Run,
    position: dict[str, Any],
    to_log: Callable[[Path, str], None],
) -> None:
    """Say in status.json and in the log how the run has ended."""
    stopped = isinstance(error, Stopped | KeyboardInterrupt)
    if isinstance(error, UserError | Stopped):
        code = error.exit_code
    elif stopped:
        code = 130
    else:
        code = 1
    who = "" if distributed.is_main() else f"process {distributed.rank()}: "
    message = who + (str(error) or type(error).__name__)
    fields: dict[str, Any] = {"exit_code": code, "message": secrets.hidden(message)}
    if code == 1 and not isinstance(error, UserError):  # a bug: with its traceback
        frame = traceback.extract_tb(error.__traceback__)[-1]
        fields["at"] = f"{frame.filename}:{frame.lineno}"
        message = who + "".join(traceback.format_exception(error))
    if run.begun or not (run.folder / "config.json").exists():
        to_log(run.log_dir, message)
    state = "stopped" if stopped else "failed"
    try:
        run.status(state, **position, **fields)
    except (UserError, OSError):  # a full disk, perhaps the very reason
        return


def worded(error: BaseException, checkpoints: Checkpoints) -> BaseException:
    """An error about the data in plain words, with what can be done."""
    if isinstance(error, SystemExit):  # of the project's own code: not to be taken for success
        return in_place_of(error, RuntimeError(f"sys.exit({error.code!r}) was called"))
    if "Expected more than 1 value per channel" in str(error):
        return DataError(_too_few(checkpoints)).with_traceback(error.__traceback__)
    wrong = _wrong_in_config(error)
    if wrong is not None:
        wrong.__cause__ = error
        return wrong.with_traceback(error.__traceback__)
    if isinstance(error, DataError):
        error.args = (f"{error}\n  {checkpoints.resume_hint()}",)
    return error


def _wrong_in_config(error: BaseException) -> ConfigError | None:
    """What torch alone says in a step, and a key of the config can mend."""
    first_line = str(error).partition("\n")[0]
    if first_line.startswith("Expected to have finished reduction in the prior iteration"):
        what = "a parameter had no gradient in the last update: it was frozen since the start"
        hint = "or not every loss depends on it: set trainer.find_unused_parameters=true"
        return ConfigError(f"{what}, {hint}")
    if _CANNOT_TAKE.search(first_line):
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith("torch.optim"):
            return ConfigError(f"optimizer: {first_line}")
    return None


def _too_few(checkpoints: Checkpoints) -> str:
    """What BatchNorm says of a batch of one sample, with what can be done."""
    newest = checkpoints.newest
    if newest is not None and "-step" in newest.name:  # where nothing of the batches can change
        return "a batch of one sample cannot pass BatchNorm"
    return (
        "a batch of one sample cannot pass BatchNorm: set another batch_size, or, without a "
        f"batch_by, data_loader.args.drop_last\n  {checkpoints.resume_hint()}"
    )


def whereabouts(run: Run) -> str:
    """Where a run is kept, and how many processes train it."""
    told = f"run folder: {shown(run.folder)}"
    if not distributed.alone():
        told += f", {distributed.size()} processes"
    return told


def checked(checkpoints: Checkpoints, config: Any, held: Held, idle: bool) -> str:
    """Read back what was saved, as a continued run would; what has been tried, in words.

    Args:
        config: the parsed config.
        idle: there was nothing left to train.
    """
    checkpoints.settle()
    newest = checkpoints.newest
    if idle or newest is None:
        done = "the run is at its end"
    elif any(map(is_sharded, held.model.parameters())):  # restored while it is whole, only
        stored.load(newest)
        done = "trained, validated and saved"
    else:
        start = config.launch.continued(newest).start(config.checked)
        start.restore(held, checkpoints.run.environment)
        done = "trained, validated, saved and read back"
    return f"check passed: {done}; nothing of it is kept"


class Goal(NamedTuple):
    """When a run is at its end: after so many epochs, or so much time."""

    epochs: int
    max_time: str
    #: Whether it was the time.
    was_late: bool
    #: How long the run has been trained.
    seconds: float


def summary(
    checkpoints: Checkpoints,
    monitor: Monitor,
    held: Held,
    goal: Goal,
    done: int,
    idle: bool,
) -> list[str]:
    """The best value, its file, and the commands that test and continue.

    Args:
        goal: when the run is at its end.
        done: how many epochs are done.
        idle: there was nothing left to train.
    """
    checkpoints.settle()
    lines = []
    # A scheduler made for so many steps cannot be stretched.
    fixed = any(hasattr(part, "total_steps") for part in held.parts.values())
    open_ended = done < goal.epochs or not fixed
    if idle:
        lines.append(f"nothing to do (epoch {done} of {goal.epochs})")
        if open_ended:
            lines[0] += f"; {_what_to_raise(monitor, goal, done)} to continue"
    newest = checkpoints.newest
    best = run_folder.best(checkpoints.run.folder)
    if best is not None and stored.is_of_epoch(best, monitor.best_epoch):
        value = f"{monitor.name} {monitor.best:.4f}"
        lines.append(f"best {value} in epoch {monitor.best_epoch}: {shown(best)}")
        newest = best
    if newest is not None:
        words = checkpoints.run.words.to_evaluate
        lines += to_test(newest, words)
    if checkpoints.newest is not None and open_ended:
        options = [*_longer(monitor, goal, done), *checkpoints.run.words.to_go_on]
        lines.append(f"continue: {checkpoints.script.goes_on(checkpoints.newest, options)}")
    return lines


def _what_to_raise(monitor: Monitor, goal: Goal, done: int) -> str:
    """Which keys keep the run from going on."""
    if goal.was_late:
        return "its time is over; raise trainer.max_time"
    if not monitor.exhausted:
        return "raise trainer.epochs"
    if done < goal.epochs:
        return "stopped early; raise trainer.early_stop"
    return "stopped early; raise trainer.early_stop and trainer.epochs"


def _longer(monitor: Monitor, goal: Goal, done: int) -> list[str]:
    """The options that make a run longer."""
    wanted = 2 * done
    if done < goal.epochs:
        wanted = goal.epochs
    options = ["--set", f"trainer.epochs={wanted}"]
    if goal.was_late:
        options = []
        if done >= goal.epochs:
            options = ["--set", f"trainer.epochs={wanted}"]
        unit = goal.max_time[-1]
        used = max(float(goal.max_time[:-1]), goal.seconds / SECONDS[unit])
        options += ["--set", f"trainer.max_time={math.ceil(2 * used)}{unit}"]
    if monitor.exhausted:
        patience = 2 * max(int(monitor.patience), monitor.bad_epochs)
        options += ["--set", f"trainer.early_stop={patience}"]
    return options
