"""The list of a folder's files with the SHA-256 of each, by which any change to one is found.

The list is written last, and in one way alone: what is read has to be, byte by byte, what would be
written of it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machinery.files import replacing

NAME = "manifest.json"
#: How the name of a folder ends that is a checkpoint.
SUFFIX = ".sharded"
#: More than that has no manifest of ours, and is not read.
_LARGEST = 1 << 26
#: So many names are told.
_NAMED = 3


def write(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the list of the files in a folder.

    Args:
        digests: the SHA-256 of each, by name.

    Raises:
        StorageError: it could not be written.
    """
    with replacing(folder / NAME) as file:
        file.write(_text(digests))


def _text(digests: Mapping[str, str]) -> bytes:
    files = json.dumps(dict(sorted(digests.items())), indent=4)
    whole = hashlib.sha256(files.encode()).hexdigest()
    return f'{{"sha256": "{whole}", "files": {files}}}\n'.encode()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path, thorough: bool = True) -> str | None:
    """What is wrong with the files of a folder, or None.

    Args:
        thorough: read all of each; False only looks whether the list is whole, and all are there.
    """
    try:
        return _damage(folder, thorough)
    except OSError as error:
        return error.strerror or str(error)


def _damage(folder: Path, thorough: bool) -> str | None:
    path = folder / NAME
    if not path.is_file():
        return f"it has no {NAME}, which is written last"
    if path.stat().st_size > _LARGEST:
        return f"its {NAME} is too large"
    digests = _read(path.read_bytes())
    if digests is None:
        return f"its {NAME} is damaged"
    return _other_names(folder, digests) or _other_files(folder, digests, thorough)


def _other_names(folder: Path, digests: Mapping[str, str]) -> str | None:
    """Which files of a folder are missing, or too many."""
    found = sorted(each.name for each in folder.iterdir() if each.name != NAME)
    missing = sorted(set(digests) - set(found))
    if missing:
        return f"it lacks {_some(missing)}"
    foreign = sorted(set(found) - set(digests))
    if foreign:
        return f"it holds what is not in its {NAME}: {_some(foreign)}"
    return None


def _other_files(folder: Path, digests: Mapping[str, str], thorough: bool) -> str | None:
    """Which file of a folder is another than it was."""
    for name, expected in digests.items():
        file = folder / name
        if file.is_symlink() or not file.is_file():
            return f"{name} is no regular file"
        if thorough and digest(file) != expected:
            return f"{name} does not match its checksum"
    return None


def _read(text: bytes) -> dict[str, str] | None:
    """The checksums by name; None if it is no such list, byte by byte."""
    try:
        files: Any = json.loads(text)["files"]
        names = all(isinstance(value, str) for value in files.values())
        if names and _text(files) == text:
            return dict(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _some(names: Sequence[str]) -> str:
    """The first names."""
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])}, …"
    return ", ".join(names)
