"""Row 7: a run that is killed inside an epoch, and goes on; memory; row 8: a trace."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from machinery.checkpoints import file as checkpoint
from machinery.errors import UserError
from machinery.files import ROOT
from model.loss import cross_entropy
from tools import children
from tools.benchmarks.loops import device, resident
from tools.gpu_checks import networks
from tools.gpu_checks.rows import Row, free
from tools.gpu_checks.sides import ByHand, Step, Tensors, network, numbers, ours, sizes, take

#: Seconds after which a run is given up.
_PATIENCE = 120
#: What the host does only to wait for the device.
_WAITING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def killed(folder: Path) -> Iterator[Row]:
    """Whether a run that was killed inside an epoch ends with the same bits."""
    for precision in ("fp32", "fp16"):
        whole = folder / f"whole-{precision}"
        part = folder / f"part-{precision}"
        _finish(_start(whole, precision))
        process = _start(part, precision)
        _kill_inside(process, part)
        run = next((part / "models" / "Digits_LeNet").iterdir())
        _finish(_command(["-r", str(run)]))
        off = _distance(_last(whole), _last(part))
        yield Row(f"killed and continued, {precision}: bits off", off, "", 0, on_gpu=False)


def _start(folder: Path, precision: str) -> subprocess.Popen[bytes]:
    settings = {
        "trainer.save_dir": str(folder),
        "trainer.epochs": 2,
        "trainer.save_step": 10,
        "trainer.deterministic": True,
        "trainer.precision": precision,
        "trainer.tensorboard": False,
    }
    return _command(["-c", "config.json", *children.setting_words(settings)])


def _command(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **children.options(),
    )


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait(_PATIENCE) != 0:
        raise UserError(f"train.py ended with exit {process.returncode}")


def _kill_inside(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill a run as soon as it has saved inside its second epoch."""
    end = time.monotonic() + _PATIENCE
    while not any(folder.glob("models/*/*/checkpoint-epoch2-step*.pth")):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise UserError("the run was over before it could be killed")
        time.sleep(0.002)
    process.kill()
    process.wait()


def _last(folder: Path) -> Mapping[str, Any]:
    """What the last checkpoint of a run holds."""
    (path,) = folder.glob("models/*/*/checkpoint-epoch2.pth")
    return checkpoint.load(path)


def _distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """How many tensors of the weights, and states of the loss's scale, differ."""
    found = 0
    for name, value in first["state_dict"].items():
        found += not torch.equal(value, second["state_dict"][name])
    scales = [content["states"].get("runtime") for content in (first, second)]
    return found + (scales[0] != scales[1])


def memory(folder: Path) -> Iterator[Row]:
    """The most memory that a step takes, beside a loop by hand."""
    if device().type != "cuda":
        yield Row("peak memory of ResNet-18, beside the loop by hand", math.nan, "", 1.02)
        return
    x, y = numbers(sizes().samples)
    make = partial(networks.ResNet18, width=64)
    loader = resident(Tensors(x, y), 256)
    peaks = []
    for build in (
        partial(ours, folder, loader=loader, loss=cross_entropy),
        partial(ByHand, x=x, y=y, size=256, loss=cross_entropy),
    ):
        free()
        step: Step | None = build(model=network(make))
        assert step is not None
        take(step, 3)
        torch.cuda.reset_peak_memory_stats()
        take(step, 10)
        peaks.append(torch.cuda.max_memory_allocated())
        step = None
    yield Row("peak memory of ResNet-18, beside the loop by hand", peaks[0] / peaks[1], "", 1.02)


def trace(folder: Path, kept: Path | None = None) -> Iterator[Row]:
    """How often the host waits in three steps, by the profiler.

    Args:
        kept: where the trace goes.
    """
    x, y = numbers(sizes().samples)
    make = partial(networks.FastNet, width=max(64 // sizes().thinner, 8))
    step = ours(folder, network(make), resident(Tensors(x, y), 128), cross_entropy)
    take(step, 10)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device().type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        take(step, 3)
    names = [event.name for event in profile.events() or []]
    waits = sum(name in _WAITING for name in names)
    if kept is not None:
        profile.export_chrome_trace(str(kept))
    # The profiler itself waits once when it ends.
    allowed = 1 if device().type == "cuda" else 0
    yield Row("waits in a trace of three steps", waits, "", allowed, on_gpu=False)
