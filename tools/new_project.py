"""Copy the template into a clean new project.

python tools/new_project.py ../my_project --example finetune
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError, StorageError
from machinery.files import ROOT
from machinery.telling import catch_user_errors
from tools.making.chosen import Options, examples
from tools.making.history import begin, message
from tools.making.written import write, written


def main() -> None:
    """Copy the template, without history, runs and caches."""
    args = _parser().parse_args()
    target = Path(args.name).resolve()
    check_place(target)
    files = written(Options(target.name, args.example))
    try:
        write(files, target)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)  # which was not there, or empty
        reason = error.strerror or error
        raise StorageError(f"{target} cannot be written: {reason}") from error
    note = ""
    if not begin(target, message("Begin", ROOT)):
        note = " (without a first commit: is git there, and does it know your name?)"
    print(f"made {target}{note}")
    print(f"  cd {shlex.quote(str(target))}")
    print("  python train.py -c config.json")


def _parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Copy the template into a clean new project.")
    parser.add_argument("name", help="folder of the new project; it must not exist, or be empty")
    parser.add_argument(
        "--example",
        choices=examples(),
        help="start from this example, in the place of the digits",
    )
    return parser


def check_place(target: Path) -> None:
    """Check that a project can be made in a folder.

    Raises:
        ConfigError: it cannot.
    """
    try:
        str(target).encode()
        is_taken = target.exists() and not _is_empty_folder(target)
    except UnicodeError as error:
        raise ConfigError(f"this is no name for a folder: {error}") from None
    except OSError as error:  # it is too long
        raise ConfigError(f"this is no name for a folder: {error.strerror}") from None
    if is_taken:
        raise ConfigError(f"{target} exists and is not empty: choose another name")
    if target.is_relative_to(ROOT):
        elsewhere = f"choose a folder elsewhere, such as ../{target.name}"
        raise ConfigError(f"{target} is inside the template: {elsewhere}")


def _is_empty_folder(path: Path) -> bool:
    """Whether a path is a folder that holds nothing."""
    return path.is_dir() and not any(path.iterdir())


if __name__ == "__main__":
    catch_user_errors()
    main()
