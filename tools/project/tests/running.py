"""The project's commands, each in a process of its own, which finds torch imported already."""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
#: What takes seconds to import; nothing of the project.
_IMPORTED = ["torch", "torch._dynamo", "torch.utils.tensorboard", "torchvision"]
#: What draws for itself in each process.
_DROPOUT = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "forkserver" in multiprocessing.get_all_start_methods():
    _context: Any = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(_IMPORTED)
else:
    _context = multiprocessing.get_context("spawn")


class Ended(NamedTuple):
    """A command that has ended: its exit code, what it printed, and its optimizers' steps."""

    code: int
    said: str
    steps: int


def words(settings: dict[str, Any]) -> list[str]:
    """Settings by key as words of a command line."""
    given = []
    for key, value in settings.items():
        given += ["--set", f"{key}={json.dumps(value)}"]
    return given


def run(
    folder: Path, *line: Any, stop_after: int = 0, processes: int = 1, still: bool = False
) -> Ended:
    """Run `python LINE`.

    Args:
        folder: for what it prints.
        stop_after: so many steps of optimizers, a signal asks it to stop; 0: none does.
        processes: how many train together.
        still: without dropout, and with the statistics that normalisations have learnt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = []
    port = _free_port()
    for rank in range(processes):
        environment = {}
        if processes > 1:
            environment = _environment(rank, processes, port)
        output = folder / f"printed-{rank}.txt"
        output.with_suffix(".steps").unlink(missing_ok=True)
        given = ([str(word) for word in line], output, environment, stop_after, still)
        process = _context.Process(target=_command, args=given)
        process.start()
        started.append(process)
    for process in started:
        process.join()
    said = (folder / "printed-0.txt").read_text(encoding="utf-8")
    counted = folder / "printed-0.steps"
    steps = 0
    if counted.exists():
        steps = int(counted.read_text(encoding="utf-8"))
    code = next((process.exitcode for process in started if process.exitcode), 0)
    return Ended(code, said, steps)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }


def _command(
    line: list[str], output: Path, environment: dict[str, str], stop_after: int, still: bool
) -> None:
    """Do what a new Python would, in this new process."""
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.argv = line
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    if still:
        _keep_still()
    steps = _counted(stop_after)
    try:
        runpy.run_path(line[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None
    finally:
        output.with_suffix(".steps").write_text(str(len(steps)), encoding="utf-8")
        if environment:
            from machinery import distributed

            distributed.leave()


def _counted(stop_after: int) -> list[None]:
    """A list that gets an item for each step of an optimizer, whatever trainer takes it."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps: list[None] = []

    def count(*_: Any) -> None:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            return  # something is trained before the run begins, which listens
        steps.append(None)
        if len(steps) == stop_after:
            signal.raise_signal(signal.SIGTERM)

    register_optimizer_step_post_hook(count)
    return steps


def _keep_still() -> None:
    """Let dropout pass everything on, and normalisations use what they have learnt."""
    import torch.nn.functional as F

    def passed_on(x: Any, *_: Any, **__: Any) -> Any:
        return x

    for name in _DROPOUT:
        setattr(F, name, passed_on)
    normalise = F.batch_norm

    def learnt(x: Any, mean: Any, variance: Any, *more: Any, **named: Any) -> Any:
        weight, bias = more[:2]
        return normalise(x, mean, variance, weight, bias, False, *more[3:], **named)

    F.batch_norm = learnt  # type: ignore[assignment]
