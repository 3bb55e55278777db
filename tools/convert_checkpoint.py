"""Turn a checkpoint of the classic template into one of this: python tools/convert_checkpoint.py old.pth new.pth

The classic template pickled its ConfigParser, so reading such a file in the usual way runs what it names. Here every
name that is not a tensor's or a plain container's becomes an inert object: nothing of the file is ever run.
"""

import argparse
import io
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError
from machinery.files import ROOT, shown_command
from machinery.telling import catch_user_errors


class Inert:
    """Stands for an object of a class that is not to be run; keeps what the pickle says of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __setstate__(self, state: Any) -> None:
        self.state = state


#: NumPy's numbers, which the classic template's best value often is.
_NUMBERS = ["float16", "float32", "float64", "int32", "int64", "bool"]


def _safe() -> list[Any]:
    core = (np._core if hasattr(np, "_core") else np.core).multiarray.scalar  # NumPy 1 has no _core
    names = [(core, f"numpy.{package}.multiarray.scalar") for package in ("core", "_core")]
    return [*names, np.dtype, *(type(np.dtype(name)) for name in _NUMBERS)]


def _globals(path: Path) -> set[str]:
    """All names that the pickles of a torch file ask for."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickle = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            streams = [io.BytesIO(archive.read(pickle))]
    else:
        streams = [io.BytesIO(path.read_bytes())] * 5  # one after the other: three small ones, the state, the keys
    found = set()
    for stream in streams:
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
    return found


def read_inert(path: Path) -> Any:
    """The content of any torch file, with inert objects for what is not plain data.

    Raises:
        CheckpointError: it cannot be read in this way.
    """
    try:
        safe = _safe()
        known = {name for _, name in safe[:2]} | {"collections.OrderedDict"}
        unknown = [name for name in _globals(path) if name not in known and not name.startswith(("torch.", "numpy."))]
        stubs = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in unknown]
        with torch.serialization.safe_globals([*safe, *stubs]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign or hostile file may fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be converted: {reason}") from None


def convert(old: Any, path: Path) -> dict[str, Any]:
    """The content of a classic checkpoint as one of this template.

    Raises:
        CheckpointError: it is none.
    """
    if not isinstance(old, dict) or not {"arch", "epoch", "state_dict", "config"} <= old.keys():
        raise CheckpointError(
            f"{path} is no checkpoint of the classic template: it lacks arch, epoch, state_dict, config"
        )
    for key in ("state_dict", "optimizer"):
        if not isinstance(old.get(key, {}), dict):
            raise CheckpointError(f"{path} holds no {key} that can be read")
    state = {**old, "config": _config(old["config"], path)}
    state["state_dict"] = {name.removeprefix("module."): value for name, value in old["state_dict"].items()}
    # The later classic kept the optimizer's class beside its state.
    optimizer = old.get("optimizer") or {}
    name = state["config"].get("optimizer", {}).get("type")
    return {
        "format_version": checkpoint.FORMAT_VERSION,
        "converted": True,
        **{key: state[key] for key in ("arch", "epoch", "state_dict", "config")},
        "optimizer": optimizer,
        "monitor_best": state.get("monitor_best", 0.0),
        "progress": {"step": None, "finished": False, "lr": _lr(optimizer)},
        "states": {},
        "classes": {"optimizer": name},
        "environment": {},
    }


def _config(config: Any, path: Path) -> dict[str, Any]:
    if isinstance(config, Inert):
        inner = getattr(config, "state", {})
        config = inner.get("_config", inner.get("config")) if isinstance(inner, dict) else None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no config that can be read")
    return dict(config)


def _lr(optimizer: dict[str, Any]) -> float:
    groups = optimizer.get("param_groups") or [{}]
    return float(groups[0].get("lr", "nan"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Turn a checkpoint of the classic template into one of this.")
    parser.add_argument("old", type=Path, help="the classic checkpoint")
    parser.add_argument("new", type=Path, help="the file to write; it must not exist")
    args = parser.parse_args()
    if not args.old.is_file():
        raise CheckpointError(f"{args.old} does not exist")
    if args.new.exists():
        raise CheckpointError(f"{args.new} exists: choose another name")
    state = convert(read_inert(args.old), args.old)
    checkpoint.save(state, args.new)
    test = shown_command(ROOT / "test.py", "-r", args.new)
    print(f"wrote {args.new}: {state['arch']}, epoch {state['epoch']}; test: {test}")


if __name__ == "__main__":
    catch_user_errors()
    main()
