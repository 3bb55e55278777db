"""Reading and writing small files, with the standard library alone."""

import difflib
import errno
import json
import os
import pickle
import shlex
import shutil
import sys
import tarfile
import traceback
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from machinery.errors import StorageError

#: What file systems say that cannot flush a folder (FUSE, SMB).
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
#: So many names of a folder are compared with one that is not there.
_LOOKED_AT = 10_000

#: The project's root folder: where `train.py` stands, whatever the current folder is.
ROOT = Path(__file__).resolve().parent.parent


def project_path(text: str | Path) -> Path:
    """A path of a config: "~" is the user's home, and else it is relative to the project's root.

    On Linux and macOS, a backslash is a slash where there is no file of that name.
    """
    path = ROOT / _at_home(str(text))
    if "\\" in str(text) and os.sep == "/" and not path.exists():
        return ROOT / _at_home(str(text).replace("\\", "/"))
    return path


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # nobody's home: a file of that name
        return Path(text)


def did_you_mean(path: Path, others: Iterable[Path] = ()) -> str:
    """What a path that is not there is probably a slip of, as ": did you mean …?", or nothing.

    Args:
        others: what it may mean beside those in its folder, by their names.
    """
    folder, name = path.parent, path.name
    while not folder.is_dir() and folder != folder.parent:
        folder, name = folder.parent, folder.name
    below = path.relative_to(folder / name)
    try:
        known = [*islice(folder.iterdir(), _LOOKED_AT), *others]
    except OSError:
        return ""
    by_name: dict[str, Path] = {}
    for each in known:
        by_name.setdefault(each.name.lower(), each)
    found = difflib.get_close_matches(name.lower(), by_name, 1, 0.75)
    if not found:
        return ""
    meant = by_name[found[0]]
    if _exists(meant / below):
        meant = meant / below
    return f": did you mean {shlex.quote(shown(meant))}?"


def _exists(path: Path) -> bool:
    """Whether there is something at a path, be it one that cannot be asked for."""
    try:
        return path.exists()
    except OSError:  # a name is too long, or the folder is somebody else's
        return False


def shown(path: Path) -> str:
    """A path as a person types it: relative to the current folder where it is below."""
    text = str(path)
    try:
        text = str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):  # the current folder is gone, or the path is not below
        pass
    if text.startswith("-"):  # which would be an option
        return f"./{text}"
    return text


def shown_command(script: Path, *words: Any) -> str:
    """The command that starts a script, as a person types it in the current folder."""
    typed = ["python"]
    for word in (script, *words):
        if isinstance(word, Path):
            typed.append(shown(word))
        else:
            typed.append(str(word))
    command = shlex.join(typed)
    if "ipykernel" in sys.modules:  # a notebook gives the rest of such a line to the shell
        return f"!{command}"
    return command


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
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def is_in_the_way(path: Path) -> bool:
    """Whether something stands at a path that no file of ours may take the place of.

    That is a link, also one to nothing, a folder, a pipe: whoever put it there meant something
    else, and a file may lead anywhere, or never end.
    """
    return path.is_symlink() or (path.exists() and not path.is_file())


def check_place(path: Path) -> None:
    """Refuse to write where something stands that is no regular file.

    Raises:
        StorageError: it does.
    """
    if path.is_symlink():
        raise StorageError(f"{path} is a link, and is not written to")
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is not a regular file: it is not replaced")


def check_folder(path: Path) -> None:
    """Refuse to make a folder where something else stands.

    Raises:
        StorageError: it does.
    """
    if path.is_symlink():
        raise StorageError(f"{path} is a link, and is not written to")
    if path.exists() and not path.is_dir():
        raise StorageError(f"{path} is not a folder: it is not replaced")


def remove(path: Path) -> None:
    """Remove a file, or a folder: at once, as far as its name goes."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove a temporary file or folder that somebody has left; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def set_aside(path: Path) -> None:
    """Rename a file or a folder to NAME.old, in place of what has that name."""
    old = path.with_name(path.name + ".old")
    if old.is_dir() and not old.is_symlink():
        remove(old)
    path.replace(old)


def whole_lines(path: Path) -> list[str]:
    """The lines of a table that others may be writing, each with its end.

    A last line without an end is left out: it is being written, or whoever wrote it was killed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8.
    """
    with open(path, newline="\n", encoding="utf-8-sig") as file:  # Excel puts a mark first
        return [line for line in file if line.endswith("\n")]


def append(path: Path, text: str) -> None:
    """Write at the end of a file, whole or not at all, unless the process is killed meanwhile.

    It is on disk then.

    Raises:
        StorageError: it could not be written; the file is as it was.
    """
    try:
        size = path.stat().st_size
        _append(path, text, size)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error


def _append(path: Path, text: str, size: int) -> None:
    """Write after the first `size` bytes of a file, to which it is cut if that fails."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.truncate(path, size)
        raise


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing, which takes its place on success.

    It is on disk then.

    Raises:
        StorageError: the file could not be written; what stood at `path` is as it was.
    """
    if not path.is_symlink():  # which would be replaced, and is not followed
        check_place(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        ensure_dir(path.parent)
        temporary.unlink(missing_ok=True)  # whatever it is, it is not followed
        with _opened(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        try:
            temporary.unlink()
        except OSError:  # as a rule it has been renamed
            pass


def _opened(path: Path, mode: str) -> IO[Any]:
    """A file that is made and opened in a binary mode, or in a text mode for UTF-8."""
    new = mode.replace("w", "x")
    if "b" in mode:
        return open(path, new)
    return open(path, new, encoding="utf-8")


def is_of_a_file(error: BaseException) -> bool:
    """Whether an exception says that a file cannot be read, or is damaged."""
    damage = (EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, pickle.UnpicklingError)
    if isinstance(error, (OSError, *damage)):
        return True
    if not isinstance(error, ValueError):
        return False
    # NumPy's reader has no exception of its own for what is no array.
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    module = Path(frames[-1].filename)
    return "numpy" in module.parts and ("npyio" in module.name or "format" in module.name)
