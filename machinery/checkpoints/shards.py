"""A checkpoint as a folder: each process writes the part of the tensors that it has.

The tensors are in safetensors files, written and read by torch.distributed.checkpoint's own storage
for these; all else is in a JSON file, and a manifest has the SHA-256 of each file. The folder is
made under a temporary name, read back, and renamed as a whole. Any number of processes reads it.
Nothing in it can run code.
"""

import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from machinery import distributed
from machinery.checkpoints import manifest
from machinery.checkpoints.chunks import are_apart
from machinery.checkpoints.structure import bytes_of
from machinery.checkpoints.typed_json import Tensors, decoded, encoded
from machinery.errors import CheckpointError, StorageError
from machinery.files import check_folder, ensure_dir, replacing, sync_folder
from machinery.plain_data import plain
from machinery.update.runtime import is_sharded, local

_CONTENT = "content.json"
#: The attribute of a tensor without numbers that says what it is called in its folder.
_LEFT = "left_in_a_folder_as"
#: Bytes of a process' part that go into one file, about: it is made in memory, by some copies.
_FILE_SIZE = 1 << 27
#: The types that safetensors has.
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint64,
        torch.uint32,
        torch.uint16,
        torch.uint8,
        torch.bool,
        torch.complex64,
    )
}
#: Gives the memory for a tensor of a name, a type and a shape.
Place = Callable[[str, torch.dtype, list[int]], torch.Tensor]


def what_is_missing() -> str:
    """What has to be installed for such a folder; empty if all is there."""
    if importlib.util.find_spec("safetensors") is None:
        return '"sharded" needs safetensors: pip install safetensors'
    return ""


def check_kinds(name: str, state: Any) -> None:
    """Refuse a state with tensors that are not as safetensors has them.

    Raises:
        CheckpointError: with the name.
    """
    for tensor in tree_leaves(state):
        if not isinstance(tensor, torch.Tensor):
            continue
        kind = ""
        if tensor.layout != torch.strided:
            kind = str(tensor.layout)
        elif tensor.dtype not in _DTYPES.values():
            kind = str(tensor.dtype)
        if kind:
            what = f"{name} has a tensor of {kind.removeprefix('torch.')}"
            raise CheckpointError(f'trainer.checkpoint: "sharded" cannot hold it: {what}')


def is_one(path: Path) -> bool:
    """Whether a path is, or was meant to be, such a folder."""
    return path.suffix == manifest.SUFFIX and path.is_dir()


def save(content: Mapping[str, Any], path: Path, group: Any = None) -> None:
    """Write a checkpoint, whole and verified, or leave what stood there.

    All processes have to call it.

    Args:
        content: plain data; a tensor that is shared out is each process' part, and of the others
            those of the main process count.
        group: of all processes, to talk in; by default the one in which they train.

    Raises:
        StorageError: it could not be written, in any of them.
        CheckpointError: it holds something that is no plain data.
    """
    document, mine = distributed.together(partial(_prepared, content), group)
    temporary = distributed.from_main(partial(_begun, path), group)
    try:
        _write_tensors(mine, temporary, path, group)
        digests = _verified(mine, temporary, path, group)
        distributed.from_main(partial(_finish, document, digests, temporary, path), group)
    except BaseException:
        if distributed.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _prepared(content: Mapping[str, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    """What is no tensor, as JSON has it, and the tensors that this process writes."""
    tensors = Tensors()
    document = encoded(plain(content, "checkpoint"), tensors)
    check_kinds("the checkpoint", list(tensors.by_name.values()))
    return document, _to_write(tensors.by_name)


def _to_write(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What this process writes, each tensor with memory of its own."""
    mine = {}
    seen = set()
    for name, tensor in tensors.items():
        if not is_sharded(tensor):
            if not distributed.is_main():
                continue
            tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
        memory = local(tensor).untyped_storage().data_ptr()
        if memory in seen:
            tensor = tensor.clone()
        seen.add(memory)
        mine[name] = tensor
    return mine


def _begun(path: Path) -> Path:
    """An empty folder beside that of a checkpoint, which has its place."""
    check_folder(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with _told(path):
        shutil.rmtree(temporary, ignore_errors=True)
        ensure_dir(path.parent)
        temporary.mkdir()
    return temporary


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system says of a write, in our words."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error


def _write_tensors(mine: dict[str, torch.Tensor], temporary: Path, path: Path, group: Any) -> None:
    """Let each process write its part of `path`, by torch's own storage."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_parts

    writer = HuggingFaceStorageWriter(
        str(temporary), fqn_to_index_mapping=_files(mine), save_distributed=True
    )
    alone = distributed.alone()
    try:
        with _quiet():
            save_parts(mine, storage_writer=writer, process_group=group, no_dist=alone)
    except CheckpointException as error:
        reason, _ = next(iter(error.failures.values()))
        if isinstance(reason, OSError):
            raise StorageError(f"could not write {path}: {reason.strerror or reason}") from None
        raise RuntimeError(f"{type(reason).__name__}: {reason}") from None


def _files(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The number of the file that each tensor goes into, from 1."""
    numbers = {}
    number = 1
    size = 0
    for name, tensor in tensors.items():
        part = tensor.nbytes // distributed.size()
        if size and size + part > _FILE_SIZE:
            number += 1
            size = 0
        size += part
        numbers[name] = number
    return numbers


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's storage warns of: one process, and its own use of what is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        yield


def _verified(
    mine: Mapping[str, torch.Tensor], temporary: Path, path: Path, group: Any
) -> dict[str, str]:
    """The SHA-256 of all files of `path`, of which each process has read back its own.

    Raises:
        StorageError: one is not what was to be written, in any process.
    """
    pattern = f"shard-{distributed.rank() + 1:05d}-*.safetensors"
    digests = {}
    problem = ""
    try:
        for file in sorted(temporary.glob(pattern)):
            if not _holds(file, mine):
                problem = f"{file.name}: read back, it is damaged"
            digests[file.name] = manifest.digest(file)
    except Exception as error:  # whatever a reader trips over, the others wait to hear of it
        problem = f"read back: {error}"
    found: dict[str, str] = {}
    for theirs, their_problem in distributed.gathered((digests, problem), group):
        if their_problem:
            raise StorageError(f"could not write {path}: {their_problem}")
        found.update(theirs)
    return found


def _holds(file: Path, mine: Mapping[str, torch.Tensor]) -> bool:
    """Whether a file holds, bit for bit, what this process has of its tensors."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 (it is no dict)
            written = opened.get_tensor(name)
            own = local(mine[name]).detach()
            if written.shape != own.shape or not torch.equal(bytes_of(written), bytes_of(own)):
                return False
    return True


def _finish(document: Any, digests: dict[str, str], temporary: Path, path: Path) -> None:
    """Write what is no tensor, and the manifest, and let the folder have its name."""
    with replacing(temporary / _CONTENT, "w") as file:
        json.dump(document, file, allow_nan=False)
    digests = {**digests, _CONTENT: manifest.digest(temporary / _CONTENT)}
    manifest.write(temporary, digests)
    problem = manifest.damage(temporary, thorough=False)
    if problem and not distributed.alone():
        problem += " (all processes have to see the same folder)"
    if problem:
        raise StorageError(f"could not write {path}: {problem}")
    put(temporary, path)


def put(temporary: Path, path: Path) -> None:
    """Rename a folder, also to a name that another has.

    Raises:
        StorageError: it cannot be done.
    """
    with _told(path):
        sync_folder(temporary)
        if not path.exists():
            temporary.rename(path)
            sync_folder(path.parent)
            return
        aside = path.with_name(f"{path.name}.old")  # no name that is swept: one of both has to stay
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        temporary.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(aside, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Let a checkpoint have a second name: its files are the same ones on disk, if that can be.

    Raises:
        StorageError: it could not be written.
    """
    temporary = _begun(target)
    try:
        with _told(target):
            for file in source.iterdir():
                _link(file, temporary / file.name)
        problem = manifest.damage(temporary, thorough=False)
        if problem:
            raise StorageError(f"could not write {target}: the copy is damaged ({problem})")
        put(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link(file: Path, target: Path) -> None:
    """A second name for a file, or a copy of it where the file system has no such thing."""
    try:
        os.link(file, target)
    except OSError:
        with replacing(target) as copied, open(file, "rb") as original:
            shutil.copyfileobj(original, copied, 1 << 20)


def on_host(name: str, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """Memory of the CPU for a tensor."""
    return torch.empty(shape, dtype=dtype)


def nowhere(name: str, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """No memory for a tensor: its numbers stay in the folder, see `read_left`."""
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    setattr(tensor, _LEFT, name)
    return tensor


def read_left(path: Path, state: Any, place: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Plain data with the numbers of those of its tensors that `nowhere` has left in a folder.

    Args:
        path: of the folder, which has been found whole.
        state: plain data.
        place: gives each of them its memory: all of it, or a part of one that is shared out.

    Raises:
        CheckpointError: they cannot be read.
    """
    tensors: dict[str, torch.Tensor] = {}

    def found(tensor: torch.Tensor) -> torch.Tensor:
        name = getattr(tensor, _LEFT, None)
        if name is None:
            return tensor
        if name not in tensors:
            tensors[name] = place(tensor)
        return tensors[name]

    filled = plain(state, "checkpoint", found)
    try:
        _read(tensors, path)
    except Exception as error:  # somebody has removed it meanwhile
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read: {first_line}") from None
    return filled


def load(path: Path, place: Place = on_host, known: bool = False) -> Any:
    """What a checkpoint holds, once it is known to be whole.

    Args:
        place: gives each tensor its memory: all of it, or a part of one that is shared out.
        known: it has been found whole just now.

    Raises:
        CheckpointError: with the reason, in one line.
    """
    problem = manifest.damage(path, thorough=not known)
    if problem:
        raise CheckpointError(f"{path} is damaged: {problem}")
    try:
        missing = what_is_missing()
        if missing:
            raise CheckpointError(missing)
        return _loaded(path, place)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read: it is nested too deeply") from None
    except Exception as error:  # whatever a reader trips over, the folder is what is wrong
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {first_line}") from None


def _loaded(path: Path, place: Place) -> Any:
    found = _shapes(path)
    tensors: dict[str, torch.Tensor] = {}

    def tensor(name: str, dtype: str, shape: list[int]) -> torch.Tensor:
        if name not in tensors:
            if found.get(name) != (_DTYPES.get(dtype), list(shape)):
                raise CheckpointError(f"its files have no tensor {name}, {dtype} {shape}")
            tensors[name] = place(name, _DTYPES[dtype], shape)
        return tensors[name]

    document = json.loads((path / _CONTENT).read_text(encoding="utf-8"))
    content = decoded(document, tensor)
    _read({name: each for name, each in tensors.items() if not each.is_meta}, path)
    return content


def _shapes(path: Path) -> dict[str, tuple[torch.dtype, list[int]]]:
    """The tensors whose parts are all in the files of a folder: types and shapes."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    metadata = HuggingFaceStorageReader(str(path)).read_metadata()
    found = {}
    for name, tensor in metadata.state_dict_metadata.items():
        known: Any = tensor
        numbers = sum(chunk.sizes.numel() for chunk in known.chunks)
        if numbers == known.size.numel() and are_apart(known.chunks):
            found[name] = (known.properties.dtype, list(known.size))
    return found


def _read(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Fill tensors with the numbers that stand under their names: in this process alone."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_parts

    if not tensors:
        return
    reader = HuggingFaceStorageReader(str(path))
    with _quiet(), torch.no_grad():
        load_parts(tensors, storage_reader=reader, no_dist=True)
