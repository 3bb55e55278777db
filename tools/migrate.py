"""Report what a project of the classic template would meet here: python tools/migrate.py ../my_project

The project is read as text and data: none of its code is imported or run, and nothing of it is changed.
"""

import argparse
import sys
import textwrap
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError
from machinery.telling import catch_user_errors, printable
from tools.migration import classic
from tools.migration.configs import configs, in_configs
from tools.migration.findings import Finding, in_code
from tools.migration.project import Project

#: Findings of a kind and places of a finding that are shown without --all; letters of a text, checkpoints looked at.
LINES, PLACES, LETTERS, CHECKPOINTS = 12, 3, 1200, 100
WIDTH = 118
STAYS = (
    "from_args, init_obj, init_ftn, get_logger, a trainer's _train_epoch, self.writer, MetricTracker, BaseDataLoader,"
    " split_validation. What changes for every project is in docs/migrating.md. What only running can show:"
    " python train.py -c config.json --check"
)


def report(root: Path, everything: bool = False) -> str:
    """What a project would meet, on a screen or two.

    Args:
        root: the project.
        everything: leave no line out.

    Raises:
        ConfigError: it is no project of the classic template.
    """
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder")
    if (root / "machinery" / "launch" / "launch.py").is_file():
        raise ConfigError(f"{root} has the files of this template already: look at it as it was before")
    project = Project(root)
    found = configs(project)
    if not {"parse_config.py", "train.py"} & set(project.files) and not found:
        raise ConfigError(f"{root} is no project of the classic template: no parse_config.py, no train.py, no config")
    python = sum(path.endswith(".py") for path in project.files)
    title = (
        f"{root.resolve().name or root}: {python} Python files, {len(found) or 'no'} config{'s' * (len(found) != 1)}"
    )
    lines = [*_wrapped("", title), "", *_files(project)]
    findings = sorted([*in_configs(project), *in_code(project), *_checkpoints(project)], key=lambda found: found.rank)
    limit = None if everything else LINES
    for rank, title in enumerate(("would be refused, or fail", "would behave differently")):
        lines += ["", *_group(title, [finding for finding in findings if finding.rank == rank], limit)]
    lines += ["", *_wrapped("stays as it was: ", STAYS)]
    if project.unread:
        unread = [f"{path} ({why})" for path, why in project.unread]
        lines += ["", *_wrapped("not read: ", _some(unread, len(unread) if everything else PLACES * 2))]
    return "\n".join(lines)


def _files(project: Project) -> list[str]:
    """What to keep and what to take."""
    shared = {path.split("/")[0] for path in classic.NAMES}
    replaced = {*project.replaced, "logger/logger_config.json"}
    folders = {path.split("/")[0] for path in project.files if "/" in path} - shared
    mine = [path for path in project.files if "/" not in path and path not in replaced]
    inside = [path for path in project.files if "/" in path and path.split("/")[0] in shared and path not in replaced]
    kept = [*mine, *(f"{name}/" for name in sorted(folders)), *inside, *(["saved/"] if "saved" in project.top else [])]
    util = "utils/ (but for utils/util.py)" if project.keeps_util else "utils/"
    taken = f"parse_config.py, base/, logger/, machinery/, {util}, requirements.txt, tools/convert_checkpoint.py"
    lines = [*_wrapped("keep: ", _some(kept, 20)), *_wrapped("take: ", taken)]
    added = [f"{path}: {_some(names, 8)}" for path, names in project.added.items() if names]
    if added:
        lines += [
            "",
            "added to the classic's own files, by their names (what was changed inside them, nobody can tell):",
        ]
        for line in added:
            fate = "; yours may stay" if line.startswith("utils/util.py:") else "; lost when the file is replaced"
            lines += _wrapped("  ", line + fate)
    return lines


def _group(title: str, findings: list[Finding], limit: int | None) -> list[str]:
    """The findings of a kind; those that say the same are one."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        places.setdefault(finding.text, []).append(finding.place)
    if not places:
        return [f"{title}: nothing that can be read"]
    lines = [f"{title}:"]
    for text, where in [*places.items()][:limit]:
        shown = _some([*dict.fromkeys(where)], PLACES if limit else len(where))
        lines += _wrapped("  ", f"{shown}: {text}")
    if limit and len(places) > limit:
        lines.append(f"  and {len(places) - limit} more: --all shows them")
    return lines


def _some(names: list[str], limit: int) -> str:
    more = [f"{len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*(" ".join(name.split()) for name in names[:limit]), *more])


def _wrapped(label: str, text: str) -> list[str]:
    """A text in lines, those after the first indented; without what would command a terminal."""
    plain = printable(" ".join(text.split()))
    plain = plain if len(plain) <= LETTERS else f"{plain[:LETTERS]} …"
    return textwrap.wrap(plain, WIDTH, initial_indent=label, subsequent_indent="    ", break_on_hyphens=False)


def _checkpoints(project: Project) -> list[Finding]:
    """Checkpoints that hold a pickled ConfigParser."""
    paths = sorted(project.checkpoints)
    old = [path for path in paths[:CHECKPOINTS] if _pickles_config(project.root / path)]
    if not old:
        return []
    many = f"{len(old)}{' or more' if len(paths) > CHECKPOINTS else ''} of {len(paths)} checkpoints"
    text = (
        f"{many} hold a pickled ConfigParser, and are refused as they are: python tools/convert_checkpoint.py OLD NEW"
    )
    return [Finding(1, old[0], text)]


def _pickles_config(path: Path) -> bool:
    """Whether a torch file asks for parse_config's class; it is not unpickled."""
    limit, wanted = 4 * 1024**2, b"cparse_config\nConfigParser\n"
    try:
        if not path.is_file():
            return False
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return wanted in file.read(limit)
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                return wanted in file.read(limit)
    except Exception:  # a foreign or hostile file may fail in any way
        return False


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Report what a project of the classic template would meet here.")
    parser.add_argument("path", type=Path, help="the project's folder")
    parser.add_argument("--all", action="store_true", help="show every finding and every place")
    args = parser.parse_args()
    print(report(args.path, args.all))


if __name__ == "__main__":
    catch_user_errors()
    main()
