"""Reading and writing small files, with the standard library alone."""

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from machinery.errors import StorageError

#: The project's root folder: where `train.py` stands, whatever the current folder is.
ROOT = Path(__file__).resolve().parent.parent
#: The training script whose command line has been read, if one has.
started: Path | None = None


def shown(path: Path) -> str:
    """A path as a person types it: relative to the current folder where it is below."""
    with contextlib.suppress(
        OSError, ValueError
    ):  # the current folder is gone, or the path is not below
        path = path.relative_to(Path.cwd())
    return f"./{path}" if str(path).startswith("-") else str(path)


def shown_command(script: str, *words: Any) -> str:
    """A command of the project as a person types it in the current folder; of train.py, the script that was started."""
    path = started if script == "train.py" and started is not None else ROOT / script
    return shlex.join(
        [
            "python",
            *(shown(word) if isinstance(word, Path) else str(word) for word in (path, *words)),
        ]
    )


def ensure_dir(dirname: str | Path) -> None:
    """Make a folder and its parents unless it is there.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        Path(dirname).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{dirname} cannot be made: {error.strerror}") from error


def read_json(fname: str | Path) -> Any:
    """Read a JSON file."""
    if not Path(fname).is_file():  # reading a pipe would wait
        raise FileNotFoundError(2, "no such file", str(fname))
    try:
        return json.loads(Path(fname).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{fname} is nested too deeply") from None


def write_json(content: Mapping[str, Any] | list[Any], fname: str | Path) -> None:
    """Write a JSON file, indented, whole or not at all."""
    with replacing(Path(fname), "w") as file:
        file.write(json.dumps(content, indent=4) + "\n")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (where the system can)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing; on success it is on disk and has taken the place of `path`.

    Raises:
        StorageError: the file could not be written; what stood at `path` is as it was.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is not a regular file: it is not replaced")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        ensure_dir(path.parent)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
