"""Where two runs first differ: settings, epochs, and what their checkpoints hold, bit by bit."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from machinery.checkpoints import run_folder, stored
from machinery.errors import ConfigError
from tools.history.records import Record
from tools.history.tables import differences

#: Settings that change nothing of a training.
_ELSEWHERE = ("trainer.save_dir",)
#: Columns of a history that are of the machine.
_TIMES = ("seconds", "samples/s", "peak_gib")
#: Parts of a checkpoint that are compared, the weights first.
_PARTS = ("state_dict", "optimizer", "states", "monitor_best", "progress")
_SETTINGS_SHOWN = 10


class Difference:
    """What differs first, and the lines about it and around it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.differ = False
        #: Whether there was anything to compare.
        self.compared = False

    def add(self, line: str) -> None:
        """A difference."""
        self.lines.append(line)
        self.differ = True


def compared_runs(a: Record, b: Record) -> Difference:
    """Compare two runs.

    Raises:
        ConfigError: they have nothing in common that could be compared.
        CheckpointError: a checkpoint does not read.
    """
    found = Difference()
    _settings(a, b, found)
    _epochs(a, b, found)
    names = [path.name for path in _checkpoints(a.folder)]
    shared = [name for name in names if run_folder.may_be_one(b.folder / name)]
    for name in shared:
        files = (a.folder / name, b.folder / name)
        line = checkpoints_differ(*files)
        found.compared = True
        if line:
            found.add(f"{name}: {line}")
            break
    if not found.compared:
        raise ConfigError(f"{a.name}, {b.name}: no epoch and no checkpoint that both have")
    return found


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run in their order, the best last."""

    bests = run_folder.bests(folder)

    def place(path: Path) -> tuple[float, float]:
        numbers = re.findall(r"\d+", path.name)
        if path in bests:
            return float("inf"), 0.0
        step = float("inf")
        if len(numbers) > 1:
            step = float(numbers[1])
        return float(numbers[0]), step

    return sorted([*folder.glob("*.pth"), *folder.glob("*.sharded")], key=place)


def _settings(a: Record, b: Record, found: Difference) -> None:
    """What differs of the settings; of what is around them, which is told and does not count."""
    table = differences([a, b])
    settings = 0
    for key, ours, theirs in table.itertuples(name=None):
        if key.startswith("("):
            if key in ("(torch)", "(python)", "(device)", "(git_commit)", "(data)"):
                found.lines.append(f"around {key[1:-1]}: {ours} | {theirs}")
        elif key not in _ELSEWHERE:
            settings += 1
            if settings <= _SETTINGS_SHOWN:
                found.add(f"setting {key}: {ours} | {theirs}")
    if settings > _SETTINGS_SHOWN:
        found.lines.append(f"… and {settings - _SETTINGS_SHOWN} more settings")


def _epochs(a: Record, b: Record, found: Difference) -> None:
    """The first number of the first epoch that differs."""
    if "epoch" not in a.history or "epoch" not in b.history:
        return
    both = list(a.history.columns.intersection(b.history.columns, sort=False))
    both = [name for name in both if name not in _TIMES]
    rows = min(len(a.history), len(b.history))
    for row in range(rows):
        found.compared = True
        for name in both:
            ours = a.history[name].iloc[row]
            theirs = b.history[name].iloc[row]
            if ours != theirs and not (pd.isna(ours) and pd.isna(theirs)):
                epoch = a.history["epoch"].iloc[row]
                found.add(f"epoch {epoch}, {name}: {ours} | {theirs}")
                return
    if len(a.history) != len(b.history):
        found.add(f"epochs: {len(a.history)} | {len(b.history)}")


def checkpoints_differ(a: Path, b: Path) -> str:
    """What differs first between two checkpoints, the weights before all else; "" if nothing."""
    ours = _leaves_of(a)
    theirs = _leaves_of(b)
    different = []
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs or not _are_same(ours[name], theirs[name]):
            different.append(name)
    if not different:
        return ""
    first = different[0]
    line = _told(first, ours, theirs)
    if len(different) > 1:
        line += f" (and {len(different) - 1:,} more of {len(ours):,})"
    return line


def _leaves_of(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, by dotted names; weights have their own."""
    content: Any = stored.load(file)
    found: dict[str, Any] = {}
    for part in _PARTS:
        if part in content:
            name = part
            if part == "state_dict":
                name = "weight"
            found.update(_leaves(name, content[part]))
    found.pop("progress.seconds", None)  # how long it took is never the same
    return found


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(_joined(name, key), item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaves(_joined(name, number), item)
    else:
        yield name, value


def _joined(name: str, key: Any) -> str:
    if name == "weight":
        return f"weight {key}"
    return f"{name}.{key}"


def _are_same(ours: Any, theirs: Any) -> bool:
    """Whether two values are the same to the bit."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return False
        return torch.equal(_bits(ours), _bits(theirs))
    if type(ours) is not type(theirs):
        return False
    return bool(ours == theirs or (ours != ours and theirs != theirs))  # NaN is NaN


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _told(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """How a value differs."""
    if name not in ours:
        return f"{name}: only in the second"
    if name not in theirs:
        return f"{name}: only in the first"
    our = ours[name]
    their = theirs[name]
    if not isinstance(our, torch.Tensor) or not isinstance(their, torch.Tensor):
        return f"{name}: {our} | {their}"
    if our.shape != their.shape or our.dtype != their.dtype:
        return f"{name}: {_kind(our)} | {_kind(their)}"
    apart = (our.double() - their.double()).abs()
    count = int((our != their).sum())
    most = float(apart.nan_to_num().max())
    return f"{name}: {count:,} of {our.numel():,} values, off by {most:.2g} at most"


def _kind(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
