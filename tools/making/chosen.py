"""What of the template a project gets: its files, but for those that are about the template."""

import re
from pathlib import Path
from typing import NamedTuple

from machinery.files import ROOT
from tools.making.history import git

EXAMPLES = ROOT / "examples"
#: What a project begins with in the place of the template's own.
SKELETON = ROOT / "tools" / "project"
#: What is about the template itself, and not for a project that is made from it.
_LEFT_OUT = re.compile(
    r"(README|AGENTS|CHANGELOG)\.md|CITATION\.cff|"
    r"docs/(contributing|examples|migrating|speed|ten_minutes|why_not)\.md|"
    r"examples/(ema\.py|mnist\.py|playground\.ipynb)|"
    r"tests/.*|"
    r"tools/(bench.*|gpu_check.*|migrat.*|making/.*|project/.*|bare_loop\.py|trace_ways\.py)|"
    r"tools/(new_project|update_project|write_schema|draw_pages)\.py|"
    r"docs/pictures/(terminal|tensorboard)\.png"
)
#: Of examples that a project does not begin with: what an error message names.
_OF_ALL = ("examples/lbfgs/trainer.py",)
#: Where there is no git to say what belongs to the template.
_IGNORED = re.compile(
    r"(.*/)?"
    r"(\.git|saved|__pycache__|\.?venv|\.\w+_cache|\.hypothesis|MNIST|test\.json|.*\.(pyc|tmp))"
    r"(/.*)?"
)


class Options(NamedTuple):
    """How a project is made.

    Args:
        name: what it is called.
        example: what it begins with; None: with the digits.
        kept: files of examples, which a project of an earlier version has.
    """

    name: str
    example: str | None = None
    kept: tuple[str, ...] = ()


def examples() -> list[str]:
    """The names of the examples."""
    return sorted(config.parent.name for config in EXAMPLES.glob("*/config.json"))


def chosen_files(options: Options) -> list[str]:
    """The files of the template that a project begins with, but for its example's."""
    tasks = {f"examples/{example}" for example in examples()}
    kept = {*_OF_ALL, *options.kept}
    chosen = []
    for name in sorted(set(_files())):
        folder = name.rpartition("/")[0]
        is_of_a_task = folder in tasks and f"{folder}/config.json" not in kept
        is_left_out = is_of_a_task or _LEFT_OUT.fullmatch(name)
        if is_left_out and name not in kept:
            continue
        if (ROOT / name).is_file():
            chosen.append(name)
    return chosen


def skeleton() -> list[Path]:
    """The files that a project has in the place of the template's."""
    return [path for path in sorted(SKELETON.rglob("*")) if _is_source(path)]


def _is_source(path: Path) -> bool:
    """Whether a path is a file that no tool has made."""
    return path.is_file() and not _IGNORED.fullmatch(path.relative_to(SKELETON).as_posix())


def example_files(example: str) -> list[str]:
    """The files of an example."""
    return [name for name in sorted(set(_files())) if name.startswith(f"examples/{example}/")]


def _files() -> list[str]:
    """The files of the template: those that git tracks."""
    if (ROOT / ".git").exists():
        tracked = git(ROOT, "ls-files", "-z")
        if tracked is not None:
            return tracked.strip("\0").split("\0")
    names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
    return [name for name in names if not _IGNORED.fullmatch(name)]
