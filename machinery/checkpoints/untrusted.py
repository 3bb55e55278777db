"""Whether a file may be read at all: a zip of what torch stores, whose pickle asks for no code."""

import struct
import zipfile
from pathlib import Path

import torch

from machinery.checkpoints.manifest import SUFFIX
from machinery.errors import CheckpointError
from machinery.files import ROOT, shown_command

EXPECTED = "expected a checkpoint that this template has saved"


def check_kind(path: Path) -> None:
    """Refuse what is no file, or no zip file."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: {EXPECTED}")
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if start == b"PK":
        return
    kind = "not a checkpoint"
    if not start:
        kind = "empty"
    elif start.startswith(b"\x80"):
        kind = "a pickle of an old torch"
    if path.suffix == ".json" and path.parent.suffix != SUFFIX:
        raise CheckpointError(f"{path} is {kind}: -c takes a config, -r a checkpoint or a run")
    if path.parent.suffix == SUFFIX:
        raise CheckpointError(f"{path} is a part of a checkpoint: name the folder {path.parent}")
    raise CheckpointError(f"{path} is {kind}: {EXPECTED}")


def check_entries(path: Path) -> None:
    """Refuse a zip of anything but stored entries with plain names."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    names = set()
    pickles = 0
    for entry in entries:
        name = entry.filename
        if name in names or ".." in name.split("/") or name.startswith("/"):
            raise CheckpointError(f"refused: {path} has duplicate or outside names")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"refused: {path} has compressed entries, which torch never writes"
            )
        names.add(name)
        if name.endswith("/data.pkl"):
            pickles += 1
    if pickles != 1:
        raise CheckpointError(f"{path} is a zip file of something else: {EXPECTED}")


def check_globals(path: Path) -> None:
    """Name what a pickle asks for beyond tensors and plain data; finding out runs nothing."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:  # the scan of a hostile pickle may fail in any way
        raise CheckpointError(
            f"refused: {path} is no pickle of tensors and plain data ({error})"
        ) from None
    if any(name.startswith("parse_config.") for name in found):
        tool = ROOT / "tools" / "convert_checkpoint.py"
        raise CheckpointError(
            f"{path} was saved by the classic template, with a pickled ConfigParser; convert it:\n"
            f"  {shown_command(tool, path, 'NEW.pth')}"
        )
    if found:
        raise CheckpointError(f"refused: {path} contains globals [{', '.join(sorted(found))}]")
