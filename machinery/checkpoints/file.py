"""Checkpoint files: plain data in torch's zip format, whole or not there, checked before trusted.

A file is written to a temporary name, flushed to disk, read back, and only then renamed. The
SHA-256 of its content stands in the zip's archive comment, because neither `torch.load` nor
`zipfile` notices every flipped bit. Loading never runs code: `weights_only=True` always, stored
entries only, and whatever else a pickle asks for is refused.
"""

import hashlib
import os
import shutil
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any, NotRequired, cast

import torch
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from machinery.checkpoints import untrusted
from machinery.errors import CheckpointError, StorageError
from machinery.files import check_place, replacing
from machinery.plain_data import plain

FORMAT_VERSION = 1
_COMMENT = b"sha256:"
_MISMATCH = "its content does not match its checksum"
_COMMENT_SIZE = len(_COMMENT) + 64
#: So many keys of the path of a problem are named.
_NAMED_KEYS = 10
#: The bytes of a zip file without entries.
_EMPTY_ZIP = 22


#: More batches than that nobody counts.
_LARGEST = 2**62


class Progress(TypedDict):
    """How far a run has come.

    Beside it stands what must be the same for it to go on (`fixed` of
    `machinery.checkpoints.parts.Held`).
    """

    #: Batches done in an unfinished epoch; None after a finished one.
    step: Annotated[int, Field(ge=1)] | None
    finished: bool
    #: The learning rate of the last update.
    lr: float
    #: Batches done before, and seconds of training; earlier checkpoints have neither.
    before: NotRequired[Annotated[int, Field(ge=0, le=_LARGEST)]]
    seconds: NotRequired[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


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
    states: NotRequired[dict[str, dict[Any, Any]]]
    classes: NotRequired[dict[str, str]]
    #: What the states are made of, that of the optimizer among them: hashes by name.
    structures: NotRequired[dict[str, str]]
    environment: NotRequired[dict[str, Any]]
    #: Of the weights that it leaves out because they are not trained, the SHA-256, by network.
    frozen: NotRequired[dict[str, dict[str, str]]]
    #: Whether it comes from the classic template, which saved less.
    converted: NotRequired[bool]


_CONTENT = TypeAdapter(Content)


class _HashingFile:
    """A file that hashes what is written to it.

    All but the last two bytes, which are the length of the zip's comment, and held back.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.tail = b""

    def write(self, data: Any) -> int:
        """Write what was held back and the data, but for the last two bytes."""
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
        """As any file has it."""
        self.file.flush()

    def finish(self) -> None:
        """Write the checksum as the zip's comment, in place of the empty one that was held back."""
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
    check_place(path)
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
    check_place(target)
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
        if size == 0:
            return "empty"
        if size <= _COMMENT_SIZE + _EMPTY_ZIP:
            return "too short"
        with open(path, "rb") as file:
            expected = _checksum(file, size)
            if expected is None:
                return (
                    "truncated, or not written by this template: it does not end with its checksum"
                )
            if _hashed(file, size) != expected:
                return f"{_MISMATCH}{_damaged_record(path)}"
    except OSError as error:
        return error.strerror or str(error)
    return None


def has_checksum(path: Path) -> bool:
    """Whether a file ends as one of ours does, whole or not."""
    try:
        size = path.stat().st_size
        if size <= _COMMENT_SIZE + _EMPTY_ZIP:
            return False
        with open(path, "rb") as file:
            return _checksum(file, size) is not None
    except OSError:
        return False


def _checksum(file: IO[bytes], size: int) -> bytes | None:
    """The checksum that a file ends with; None if it has none."""
    file.seek(size - _COMMENT_SIZE - 2)
    length = struct.unpack("<H", file.read(2))[0]
    comment = file.read()
    if length != _COMMENT_SIZE or not comment.startswith(_COMMENT):
        return None
    return comment[len(_COMMENT) :]


def _hashed(file: IO[bytes], size: int) -> bytes:
    """The checksum that a file should have: of all before its comment."""
    file.seek(0)
    sha256 = hashlib.sha256()
    left = size - _COMMENT_SIZE - 2
    while left:
        block = file.read(min(left, 1 << 20))
        sha256.update(block)
        left -= len(block)
    return sha256.hexdigest().encode()


def _damaged_record(path: Path) -> str:
    """Name the first record of a damaged zip whose own checksum fails, where there is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except Exception as error:  # a damaged file may fail in any way, and only its name is wanted
        return f" ({type(error).__name__}: {error})"
    if record is None:
        return ""
    return f" (record {record})"


def load(path: Path, mmap: bool = False, known: bool = False) -> Content:
    """Read a checkpoint on the CPU, once it is known to be one, to be whole, and to hold no code.

    Args:
        mmap: leave the tensors in the file until they are used.
        known: another process of this machine has found it whole just now.

    Raises:
        CheckpointError: with the reason, in one line.
    """
    untrusted.check_kind(path)
    problem = None
    if not known:
        problem = damage(path)
    # A file that carries our checksum is damaged before it is anything else; another may be foreign
    # or hostile.
    if problem is None or not problem.startswith(_MISMATCH):
        untrusted.check_entries(path)
        untrusted.check_globals(path)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}")
    return checked(path, read_untrusted(path, mmap))


def checked(path: Path, state: Any) -> Content:
    """What has been read, if it is a `Content` that this code knows.

    Raises:
        CheckpointError: it is not.
    """
    _check_content(path, state)
    return cast(Content, {"states": {}, "classes": {}, "environment": {}, **state})


def _check_content(path: Path, state: Any) -> None:
    """Refuse what is not a `Content` that this code reads."""
    if not isinstance(state, dict) or "format_version" not in state:
        kind = f"a {type(state).__name__}"
        if _is_state_dict(state):
            kind = "a bare state_dict"
        raise CheckpointError(f"{path} is {kind}: {untrusted.EXPECTED}")
    version = state["format_version"]
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, this code reads up to {FORMAT_VERSION}: use newer code"
        )
    try:
        _CONTENT.validate_python(state, strict=True)
    except ValidationError as error:
        problems = []
        for item in error.errors()[:3]:
            key_path = ".".join([str(key) for key in item["loc"][:_NAMED_KEYS]])
            problems.append(f"{key_path}: {item['msg']}")
        raise CheckpointError(
            f"{path} is no checkpoint of this template: {'; '.join(problems)}"
        ) from None
    named = {*state.get("classes", {}), *state.get("frozen", {})}
    lacking = sorted(named - {*state.get("states", {}), "optimizer", "model"})
    if lacking:
        raise CheckpointError(f"{path} lacks the states of {', '.join(lacking)}")


def _is_state_dict(state: Any) -> bool:
    """Whether it is what `module.state_dict()` gives."""
    if not isinstance(state, dict) or not state:
        return False
    return all(isinstance(value, torch.Tensor) for value in state.values())


def read_plain(file: Path | IO[bytes], mmap: bool = False) -> Any:
    """What `torch.save` has written, as far as it is tensors and plain data."""
    with warnings.catch_warnings():
        # That checking a sparse tensor, which is wanted, takes time.
        warnings.filterwarnings("ignore", "Validating sparse tensor invariants")
        # Explicit: the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD turns the default off.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def read_untrusted(path: Path, mmap: bool = False) -> Any:
    """What the file holds: tensors and plain data, whatever it asks for."""
    try:
        return read_plain(path, mmap)
    except Exception as error:  # whatever the unpickler trips over, the file is what is wrong
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {first_line}") from None
