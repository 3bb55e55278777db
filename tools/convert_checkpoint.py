"""Turn a checkpoint of the classic template into one of this, or a folder of shards into a file.

python tools/convert_checkpoint.py old.pth new.pth
python tools/convert_checkpoint.py checkpoint-epoch3.sharded checkpoint-epoch3.pth
python tools/convert_checkpoint.py checkpoint-epoch3.pth checkpoint-epoch3.sharded

The classic template pickled its ConfigParser, so reading such a file in the usual way runs what it
names. Here every name that is not a tensor's or a plain container's becomes an inert object:
nothing of the file is ever run.
"""

import argparse
import io
import math
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from machinery.checkpoints import file as checkpoint, shards, stored
from machinery.checkpoints.manifest import SUFFIX
from machinery.errors import CheckpointError
from machinery.files import ROOT, shown_command
from machinery.telling import catch_user_errors


class Inert:
    """Stands for an object of a class that is not to be run; keeps what the pickle says of it."""

    #: What the pickle gives it; None if it gives nothing.
    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def __setstate__(self, state: Any) -> None:
        self.state = state


#: What every checkpoint of the classic template has.
_NEEDED = ("arch", "epoch", "state_dict", "config")
#: NumPy's numbers, which the classic template's best value often is.
_NUMBERS = ("float16", "float32", "float64", "int32", "int64", "bool")
#: The pickles of a file of before torch 1.6: three small ones, the state, the keys.
_OLD_PICKLES = 5


class Pickles(NamedTuple):
    """Pickles that stand one after the other."""

    stream: io.BytesIO
    number: int


def read_inert(path: Path) -> Any:
    """The content of any torch file, with inert objects for what is not plain data.

    Raises:
        CheckpointError: it cannot be read in this way.
    """
    try:
        safe = _numbers()
        for name in _named_in(path):
            if not _is_plain(name):
                stub = type(name.rpartition(".")[2], (Inert,), {})
                safe.append((stub, name))
        with torch.serialization.safe_globals(safe):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign or hostile file may fail in any way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} cannot be converted: {lines[0]}") from None


def _numbers() -> list[Any]:
    """What NumPy's numbers are made by, as `safe_globals` takes it."""
    core: Any
    if hasattr(np, "_core"):
        core = np._core
    else:  # NumPy 1
        core = np.core
    makers: list[Any] = [np.dtype]
    for package in ("core", "_core"):
        makers.append((core.multiarray.scalar, f"numpy.{package}.multiarray.scalar"))
    for name in _NUMBERS:
        makers.append(type(np.dtype(name)))
    return makers


def _named_in(path: Path) -> set[str]:
    """All names that the pickles of a torch file ask for."""
    pickles = _pickles(path)
    found = set()
    for _ in range(pickles.number):
        for operation, argument, _position in pickletools.genops(pickles.stream):
            if operation.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
    return found


def _pickles(path: Path) -> Pickles:
    """The pickles of a torch file."""
    if not zipfile.is_zipfile(path):
        return Pickles(io.BytesIO(path.read_bytes()), _OLD_PICKLES)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                return Pickles(io.BytesIO(archive.read(name)), 1)
    raise ValueError("it is a zip file without a data.pkl")


def _is_plain(name: str) -> bool:
    """Whether a name is of plain data, which torch makes by itself, or of what it refuses."""
    if name == "collections.OrderedDict":
        return True
    return name.startswith(("torch.", "numpy."))


def convert(old: Any, path: Path) -> dict[str, Any]:
    """The content of a classic checkpoint as one of this template.

    Raises:
        CheckpointError: it is none.
    """
    if not isinstance(old, dict) or not old.keys() >= set(_NEEDED):
        lacking = ", ".join(_NEEDED)
        raise CheckpointError(
            f"{path} is no checkpoint of the classic template: it lacks {lacking}"
        )
    weights = _mapping(old["state_dict"], "state_dict", path)
    optimizer = _mapping(old.get("optimizer", {}), "optimizer", path)
    config = _config(old["config"], path)
    return {
        "format_version": checkpoint.FORMAT_VERSION,
        "converted": True,
        "arch": old["arch"],
        "epoch": old["epoch"],
        "state_dict": {str(name).removeprefix("module."): each for name, each in weights.items()},
        "config": config,
        "optimizer": optimizer,
        "monitor_best": old.get("monitor_best", 0.0),
        "progress": {"step": None, "finished": False, "lr": _lr(optimizer)},
        "states": {},
        "classes": {"optimizer": _optimizer_type(config)},
        "environment": {},
    }


def _mapping(value: Any, name: str, path: Path) -> dict[Any, Any]:
    """What stands in a checkpoint under a name, which has to be plain data."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no {name} that can be read")
    return value


def _config(config: Any, path: Path) -> dict[str, Any]:
    """The config, which the ConfigParser of an early classic template has within."""
    if isinstance(config, Inert) and isinstance(config.state, dict):
        config = config.state.get("_config", config.state.get("config"))
    return dict(_mapping(config, "config", path))


def _lr(optimizer: dict[Any, Any]) -> float:
    """The learning rate in an optimizer's state; NaN if it has none."""
    try:
        return float(optimizer["param_groups"][0]["lr"])
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def _optimizer_type(config: dict[str, Any]) -> Any:
    """The class of the optimizer, which the config alone names."""
    component = config.get("optimizer")
    if isinstance(component, dict):
        return component.get("type")
    return None


def read(old: Path) -> Any:
    """The content of a checkpoint, as one of this template.

    Raises:
        CheckpointError: it cannot be read.
    """
    if shards.is_one(old) or checkpoint.has_checksum(old):
        return stored.load(old)
    return convert(read_inert(old), old)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Turn a checkpoint of the classic template into one of this, "
        "or a folder of shards into a file, and back."
    )
    parser.add_argument("old", type=Path, help="the classic checkpoint, or one of this template")
    what = f"the file to write, or the folder if it ends in {SUFFIX}; it must not exist"
    parser.add_argument("new", type=Path, help=what)
    args = parser.parse_args()
    if args.old.is_dir() and not shards.is_one(args.old):
        raise CheckpointError(f"{args.old} is a folder: name one of the checkpoints in it")
    if not args.old.is_file() and not shards.is_one(args.old):
        raise CheckpointError(f"{args.old} does not exist")
    if args.new.exists():
        raise CheckpointError(f"{args.new} exists: choose another name")
    state = read(args.old)
    stored.save(state, args.new)
    test = shown_command(ROOT / "test.py", "-r", args.new)
    what = f"{state['arch']}, epoch {state['epoch']}"
    print(f"wrote {args.new}: {what}; test: {test}")


if __name__ == "__main__":
    catch_user_errors()
    main()
