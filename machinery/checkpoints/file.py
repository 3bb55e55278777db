"""Checkpoint files: plain data in torch's zip format, whole or not there, and checked before a byte is trusted.

A file is written to a temporary name, flushed to disk, read back, and only then renamed. The SHA-256 of its content
stands in the zip's archive comment, because neither `torch.load` nor `zipfile` notices every flipped bit. Loading
never runs code: `weights_only=True` always, stored entries only, and whatever else a pickle asks for is refused.
"""

import hashlib
import os
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any, NotRequired, cast

import numpy as np
import torch
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from machinery.errors import CheckpointError, StorageError
from machinery.files import replacing, shown_command

FORMAT_VERSION = 1
_COMMENT = b"sha256:"
_MISMATCH = "its content does not match its checksum"
_COMMENT_SIZE = len(_COMMENT) + 64
_EXPECTED = "expected a checkpoint that this template has saved"


class Progress(TypedDict):
    """How far a run has come; beside it stands what must be the same for it to go on (`fixed` of `machinery.checkpoints.parts.Held`)."""

    #: Batches done in an unfinished epoch; None after a finished one.
    step: Annotated[int, Field(ge=1)] | None
    finished: bool
    #: The learning rate of the last update.
    lr: float


class Content(TypedDict):
    """What a checkpoint holds: the classic template's keys, and ours."""

    format_version: Annotated[int, Field(ge=1)]
    arch: str
    epoch: Annotated[int, Field(ge=1)]
    #: The bare model's weights.
    state_dict: dict[str, Any]
    optimizer: dict[str, Any]
    monitor_best: float
    config: dict[str, JsonValue]
    progress: Progress
    #: State and class of each of the trainer's other parts, by name.
    states: NotRequired[dict[str, dict[str, Any]]]
    classes: NotRequired[dict[str, str]]
    environment: NotRequired[dict[str, Any]]
    #: Whether it comes from the classic template, which saved less.
    converted: NotRequired[bool]


_CONTENT = TypeAdapter(Content)


def plain(value: Any, name: str = "state") -> Any:
    """Copy nested containers as what a checkpoint may hold: tensors, numbers, strings, None, lists, tuples, dicts.

    NumPy's numbers and arrays and paths are converted.

    Raises:
        CheckpointError: a value of any other type, named by its place.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor)  # the loader knows no other class
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value.copy())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        copied = {
            plain(key, f"{name} (a key)"): plain(item, f"{name}.{key}")
            for key, item in value.items()
        }
        if hasattr(value, "_metadata"):  # the versions of a network's modules
            copied = OrderedDict(copied)
            vars(copied)["_metadata"] = plain(dict(value._metadata))
        return copied
    if isinstance(value, list | tuple):
        items = [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    for kind in (int, float, str):  # enums and other subclasses of plain types
        if isinstance(value, kind):
            return kind(value)
    found = f"{type(value).__module__}.{type(value).__qualname__}"
    raise CheckpointError(
        f"{name} is a {found}: a checkpoint holds tensors and plain data only (see state_dict)"
    )


class _HashingFile:
    """A file that hashes what is written to it, all but the last two bytes: the length of the zip's comment."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.tail = file, hashlib.sha256(), b""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) < 2:
            joined = self.tail + bytes(view)
            self._put(joined[:-2])
            self.tail = joined[-2:]
        else:
            self._put(self.tail)
            self._put(view[:-2])
            self.tail = bytes(view[-2:])
        return len(view)

    def _put(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def finish(self) -> None:
        """Write the checksum as the comment of the zip, in place of the empty one that was held back."""
        self.file.write(
            struct.pack("<H", _COMMENT_SIZE) + _COMMENT + self.sha256.hexdigest().encode()
        )


def save(state: Mapping[str, Any] | Content, path: Path) -> None:
    """Write `state` to `path`, whole and verified, or leave what stood there.

    Raises:
        StorageError: it could not be written.
        CheckpointError: it holds something that is not plain data.
    """
    state = plain(state, "checkpoint")
    with replacing(path) as file:
        hashing = _HashingFile(file)
        try:
            torch.save(state, cast(IO[bytes], hashing))
        except RuntimeError as error:  # torch hides the OSError of a failed write behind its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        hashing.finish()
        file.flush()
        os.fsync(file.fileno())
        problem = damage(Path(file.name))
        if problem:
            raise StorageError(f"could not write {path}: read back, it is damaged ({problem})")


def copy(source: Path, target: Path) -> None:
    """Copy a checkpoint file, whole and verified, or leave what stood at `target`."""
    with replacing(target) as file:
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)
        file.flush()
        problem = damage(Path(file.name))
        if problem:
            raise StorageError(f"could not write {target}: the copy is damaged ({problem})")


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint file, or None: about 0.1 s for 100 MB."""
    try:
        size = path.stat().st_size
        if size <= _COMMENT_SIZE + 22:
            return "empty" if size == 0 else "too short"
        with open(path, "rb") as file:
            file.seek(size - _COMMENT_SIZE - 2)
            length, comment = struct.unpack("<H", file.read(2))[0], file.read()
            if length != _COMMENT_SIZE or not comment.startswith(_COMMENT):
                return (
                    "truncated, or not written by this template: it does not end with its checksum"
                )
            file.seek(0)
            sha256, left = hashlib.sha256(), size - _COMMENT_SIZE - 2
            while left:
                block = file.read(min(left, 1 << 20))
                sha256.update(block)
                left -= len(block)
            if sha256.hexdigest().encode() != comment[len(_COMMENT) :]:
                return f"{_MISMATCH}{_damaged_record(path)}"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _damaged_record(path: Path) -> str:
    """Name the first record of a damaged zip whose own checksum fails, where there is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except Exception as error:  # a damaged file may fail in any way, and only its name is wanted
        return f" ({type(error).__name__}: {error})"
    return f" (record {record})" if record else ""


def load(path: Path, mmap: bool = False) -> Content:
    """Read a checkpoint on the CPU, after checking that it is one, that it is whole, and that it holds no code.

    Args:
        mmap: leave the tensors in the file until they are used.

    Raises:
        CheckpointError: with the reason, in one line.
    """
    _check_kind(path)
    problem = damage(path)
    # A file that carries our checksum is damaged before it is anything else; another may be foreign or hostile.
    if problem is None or not problem.startswith(_MISMATCH):
        _check_entries(path)
        _check_globals(path)
    if problem:
        raise CheckpointError(f"{path} is damaged: {problem}")
    state = _unpickle(path, mmap)
    if not isinstance(state, dict) or "format_version" not in state:
        kind = "a bare state_dict" if _is_state_dict(state) else f"a {type(state).__name__}"
        raise CheckpointError(f"{path} is {kind}: {_EXPECTED}")
    if not isinstance(state["format_version"], int) or state["format_version"] > FORMAT_VERSION:
        found = state["format_version"]
        raise CheckpointError(
            f"{path} has format {found}, this code reads up to {FORMAT_VERSION}: use newer code"
        )
    try:
        _CONTENT.validate_python(state, strict=True)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3]]
        raise CheckpointError(
            f"{path} is no checkpoint of this template: {'; '.join(told)}"
        ) from None
    return cast(Content, {"states": {}, "classes": {}, "environment": {}, **state})


def _is_state_dict(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and bool(state)
        and all(isinstance(v, torch.Tensor) for v in state.values())
    )


def _check_kind(path: Path) -> None:
    """Refuse what is no file, or no zip file."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not a file: {_EXPECTED}" if path.exists() else f"{path} does not exist"
        )
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not start.startswith(b"PK"):
        kind = (
            "empty"
            if not start
            else "a pickle of an old torch"
            if start[:1] == b"\x80"
            else "not a checkpoint"
        )
        raise CheckpointError(f"{path} is {kind}: {_EXPECTED}")


def _check_entries(path: Path) -> None:
    """Refuse a zip of anything but stored entries with plain names."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    names = [entry.filename for entry in entries]
    if len(names) != len(set(names)) or any(
        ".." in name.split("/") or name.startswith("/") for name in names
    ):
        raise CheckpointError(f"refused: {path} has duplicate or outside names")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"refused: {path} has compressed entries, which torch never writes")
    if sum(name.endswith("/data.pkl") for name in names) != 1:
        raise CheckpointError(f"{path} is a zip file of something else: {_EXPECTED}")


def _check_globals(path: Path) -> None:
    """Name what a pickle asks for beyond tensors and plain data; finding out runs nothing."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:  # the scan of a hostile pickle may fail in any way
        raise CheckpointError(
            f"refused: {path} is no pickle of tensors and plain data ({error})"
        ) from None
    if any(name.startswith("parse_config.") for name in found):
        how = f"convert it:\n  {shown_command('tools/convert_checkpoint.py', path, 'NEW.pth')}"
        raise CheckpointError(
            f"{path} was saved by the classic template, with a pickled ConfigParser; {how}"
        )
    if found:
        raise CheckpointError(f"refused: {path} contains globals [{', '.join(sorted(found))}]")


def _unpickle(path: Path, mmap: bool) -> Any:
    try:
        # Explicit: the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD turns the default off.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever the unpickler trips over, the file is what is wrong
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
