"""Let the template's fixes reach a project that was made from it.

python tools/update_project.py ../my_project

What the template writes today goes to the project's branch `template`, and is merged by git.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.telling import catch_user_errors
from tools.making.history import BRANCH
from tools.making.update import (
    check_project,
    have_branch,
    merge,
    options_of,
    with_kept,
    write_branch,
)

#: How many files are named.
_NAMED = 20


def main() -> None:
    """Write the branch, merge it, and say what is left to do."""
    args = _parser().parse_args()
    project = Path(args.project).resolve()
    check_project(project)
    options = options_of(project)
    have_branch(project, options, args.since)
    write_branch(project, with_kept(project, options))
    conflicts = merge(project)
    place = shlex.quote(str(project))
    if conflicts is None:
        print(f"{project} has all that the template writes: nothing to do")
    elif conflicts:
        _tell_conflicts(conflicts, place)
        raise SystemExit(1)
    else:
        print(f"updated {project}: the branch {BRANCH!r} is merged; CHANGELOG.md says what is new")
        print(f"  cd {place} && python train.py -c config.json --check && pytest")
        print(f"  git -C {place} reset --keep HEAD^                # as it was before")


def _tell_conflicts(conflicts: list[str], place: str) -> None:
    """Say which files both have changed, and what to do."""
    print("both you and the template have changed, at the same places:", file=sys.stderr)
    for name in conflicts[:_NAMED]:
        print(f"  {name}", file=sys.stderr)
    if len(conflicts) > _NAMED:
        print("  …", file=sys.stderr)
    print("edit them, then git add them and git commit; or go back:", file=sys.stderr)
    print(f"  git -C {place} merge --abort", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Merge the template of today into a project.")
    parser.add_argument("project", help="folder of a project that was made from the template")
    since = "the template's commit that it was made from, where the project does not say"
    parser.add_argument("--since", metavar="COMMIT", help=since)
    return parser


if __name__ == "__main__":
    catch_user_errors()
    main()
