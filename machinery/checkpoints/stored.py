"""A checkpoint as it is stored: a file, or a folder of shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from machinery.checkpoints import file, manifest, shards
from machinery.checkpoints.file import Content
from machinery.errors import CheckpointError


def load(path: Path, mmap: bool = False, known: bool = False) -> Content:
    """What a checkpoint holds, on the CPU, once it is known to be one, and to be whole.

    Args:
        mmap: leave the tensors of a file there until they are used; those of a folder are not read.
        known: another process of this machine has found it whole just now.

    Raises:
        CheckpointError: with the reason, in one line.
    """
    if not shards.is_one(path):
        return file.load(path, mmap, known)
    place = shards.on_host
    if mmap:
        place = shards.nowhere
    return file.checked(path, shards.load(path, place, known))


def save(content: Mapping[str, Any] | Content, path: Path) -> None:
    """Write a checkpoint, as a folder if it is named as one; all processes have to call it then.

    Raises:
        StorageError: it could not be written.
        CheckpointError: it holds what is no plain data, or what a folder cannot have.
    """
    if path.suffix == manifest.SUFFIX:
        shards.save(content, path)
    else:
        file.save(content, path)


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, or None."""
    if shards.is_one(path):
        return manifest.damage(path)
    return file.damage(path)


def copy(source: Path, target: Path) -> None:
    """Copy a checkpoint, whole and verified, or leave what stood at `target`.

    Raises:
        StorageError: it could not be written.
    """
    if shards.is_one(source):
        shards.copy(source, target)
    else:
        file.copy(source, target)


def is_of_epoch(path: Path, epoch: int) -> bool:
    """Whether a path is a whole checkpoint of an epoch."""
    try:
        return load(path, mmap=True)["epoch"] == epoch
    except CheckpointError:
        return False
