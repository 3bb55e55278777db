"""Report what a project of the classic template would meet here.

    python tools/migrate.py ../my_project

The project is read as text and data: none of its code is imported or run, and nothing of it is
changed.
"""

import argparse
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError
from machinery.telling import catch_user_errors, printable
from tools.migration import classic
from tools.migration.configs import configs, in_configs
from tools.migration.findings import in_code
from tools.migration.module import DIFFERENT, REFUSED, Finding
from tools.migration.project import Project


class Limits(NamedTuple):
    """How much is shown."""

    #: Findings of a rank, places of a finding, files that were not read.
    findings: int
    places: int
    unread: int


SHORT = Limits(findings=12, places=3, unread=6)
EVERYTHING = Limits(sys.maxsize, sys.maxsize, sys.maxsize)
#: Names that are shown at most, also with --all: of what to keep, of what was added to a file.
KEPT = 20
ADDED = 8
#: Letters of a text, and of a line.
LETTERS = 1200
WIDTH = 118
#: Checkpoints that are looked at, and how many bytes of each.
CHECKPOINTS = 100
PICKLE = 4 * 1024**2
#: How a pickle asks for the class of a config.
CONFIG_PARSER = b"cparse_config\nConfigParser\n"
STAYS = (
    "from_args, init_obj, init_ftn, get_logger, a trainer's _train_epoch, self.writer, "
    "MetricTracker, BaseDataLoader, split_validation. What changes for every project is in "
    "docs/migrating.md. What only running can show: python train.py -c config.json --check"
)


def report(root: Path, everything: bool = False) -> str:
    """What a project would meet, on a screen or two.

    Args:
        root: the project.
        everything: leave no line out.

    Raises:
        ConfigError: it is no project of the classic template.
    """
    project = _project(root)
    findings = [*in_configs(project), *in_code(project), *_checkpoints(project)]
    limits = EVERYTHING if everything else SHORT
    parts = [
        _wrapped("", _title(project)),
        _files(project),
        _additions(project),
        _group("would be refused, or fail", REFUSED, findings, limits),
        _group("would behave differently", DIFFERENT, findings, limits),
        _wrapped("stays as it was: ", STAYS),
        _unread(project, limits),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _project(root: Path) -> Project:
    """The project in a folder, read.

    Raises:
        ConfigError: it is no project of the classic template.
    """
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder")
    if (root / "machinery" / "launch" / "launch.py").is_file():
        raise ConfigError(
            f"{root} has the files of this template already: look at it as it was before"
        )
    project = Project(root)
    has_script = "parse_config.py" in project.files or "train.py" in project.files
    if not has_script and not configs(project):
        missing = "no parse_config.py, no train.py, no config"
        raise ConfigError(f"{root} is no project of the classic template: {missing}")
    return project


def _checkpoints(project: Project) -> list[Finding]:
    """A finding for all checkpoints that hold a pickled ConfigParser."""
    paths = sorted(project.checkpoints)
    old = [path for path in paths[:CHECKPOINTS] if _pickles_config(project.root / path)]
    if not old:
        return []
    count = str(len(old))
    if len(paths) > CHECKPOINTS:
        count = f"{count} or more"
    text = (
        f"{count} of {len(paths)} checkpoints hold a pickled ConfigParser, and are refused as they "
        "are: python tools/convert_checkpoint.py OLD NEW"
    )
    return [Finding(DIFFERENT, old[0], text)]


def _pickles_config(path: Path) -> bool:
    """Whether a torch file asks for parse_config's class; it is not unpickled."""
    try:
        return CONFIG_PARSER in _pickle(path)
    except Exception:  # a foreign or hostile file may fail in any way
        return False


def _pickle(path: Path) -> bytes:
    """The beginning of the pickle that a torch file is, or holds; nothing if it is none."""
    if not path.is_file():
        return b""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return file.read(PICKLE)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                with archive.open(name) as member:
                    return member.read(PICKLE)
    return b""


def _title(project: Project) -> str:
    """The project's name, and how much of it there is."""
    name = project.root.resolve().name or project.root
    python = [path for path in project.files if path.endswith(".py")]
    count = len(configs(project))
    if count == 0:
        told = "no configs"
    elif count == 1:
        told = "1 config"
    else:
        told = f"{count} configs"
    return f"{name}: {len(python)} Python files, {told}"


def _files(project: Project) -> list[str]:
    """What to keep, and what to take."""
    utils = "utils/"
    if project.keeps_utils:
        utils = f"utils/ (but for utils/__init__.py, {classic.UTIL})"
    elif project.keeps_util:
        utils = f"utils/ (but for {classic.UTIL})"
    taken = (
        f"parse_config.py, base/, logger/, machinery/, {utils}, requirements.txt, "
        "tools/convert_checkpoint.py"
    )
    return [*_wrapped("keep: ", _some(_kept(project), KEPT)), *_wrapped("take: ", taken)]


def _kept(project: Project) -> list[str]:
    """The files and folders of the user's own."""
    replaced = {*project.replaced, "logger/logger_config.json"}
    shared = {path.split("/")[0] for path in classic.NAMES}
    top = []
    folders = set()
    in_shared = []
    for path in project.files:
        first, slash, _ = path.partition("/")
        if slash and first not in shared:
            folders.add(first)
        elif path in replaced:
            continue
        elif slash:
            in_shared.append(path)
        else:
            top.append(path)
    kept = [*top, *(f"{name}/" for name in sorted(folders)), *in_shared]
    if "saved" in project.top:
        kept.append("saved/")
    return kept


def _additions(project: Project) -> list[str]:
    """What was added to the classic's own files."""
    lines = []
    for path, names in project.added.items():
        if not names:
            continue
        fate = "lost when the file is replaced"
        if path in (classic.UTIL, "utils/__init__.py"):
            fate = "yours may stay"
        lines += _wrapped("  ", f"{path}: {_some(names, ADDED)}; {fate}")
    if not lines:
        return []
    return ["added to the classic's own files, by their names:", *lines]


def _group(title: str, rank: int, findings: list[Finding], limits: Limits) -> list[str]:
    """The findings of a rank; those that say the same are one."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        if finding.rank == rank:
            places.setdefault(finding.text, []).append(finding.place)
    if not places:
        return [f"{title}: nothing that can be read"]
    lines = [f"{title}:"]
    for text in [*places][: limits.findings]:
        different_places = [*dict.fromkeys(places[text])]
        lines += _wrapped("  ", f"{_some(different_places, limits.places)}: {text}")
    left_out = len(places) - limits.findings
    if left_out > 0:
        lines.append(f"  and {left_out} more: --all shows them")
    return lines


def _unread(project: Project, limits: Limits) -> list[str]:
    """What was not read, and why."""
    if not project.unread:
        return []
    told = [f"{path} ({why})" for path, why in project.unread]
    return _wrapped("not read: ", _some(told, limits.unread))


def _some(names: list[str], limit: int) -> str:
    """Some names of many, and how many others there are."""
    shown = [" ".join(name.split()) for name in names[:limit]]
    if len(names) > limit:
        shown.append(f"{len(names) - limit} more")
    return ", ".join(shown)


def _wrapped(label: str, text: str) -> list[str]:
    """A text in lines, those after the first indented; without what would command a terminal."""
    plain = printable(" ".join(text.split()))
    if len(plain) > LETTERS:
        plain = f"{plain[:LETTERS]} …"
    return textwrap.wrap(
        plain, WIDTH, initial_indent=label, subsequent_indent="    ", break_on_hyphens=False
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Report what a project of the classic template would meet here."
    )
    parser.add_argument("path", type=Path, help="the project's folder")
    parser.add_argument("--all", action="store_true", help="show every finding and every place")
    args = parser.parse_args()
    print(report(args.path, args.all))


if __name__ == "__main__":
    catch_user_errors()
    main()
