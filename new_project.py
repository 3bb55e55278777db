"""Copy the template into a clean new project: python new_project.py ../my_project"""

import argparse
import shutil
import sys
from pathlib import Path

from utils.errors import ConfigError, StorageError, run_command
from utils.files import ROOT

#: What belongs to this checkout, not to the template.
LEFT_OUT = shutil.ignore_patterns(
    ".git", "saved", "__pycache__", "*.pyc", ".venv", "venv", ".*_cache", ".hypothesis", "*.tmp", "test.json", "MNIST"
)


def main() -> None:
    """Copy the template, without history, runs and caches."""
    parser = argparse.ArgumentParser(description="Copy the template into a clean new project.")
    parser.add_argument("name", help="folder of the new project; it must not exist, or be empty")
    target = Path(parser.parse_args().name).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty: choose another name")
    if target.is_relative_to(ROOT):
        raise ConfigError(f"{target} is inside the template: choose a folder elsewhere, such as ../{target.name}")
    try:
        shutil.copytree(ROOT, target, ignore=LEFT_OUT, dirs_exist_ok=True)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror or error}") from error
    print(f"made {target}\n  cd {target}\n  python train.py -c config.json", file=sys.stdout)


if __name__ == "__main__":
    run_command(main)
