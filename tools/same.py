"""Where two runs first differ, bit by bit: python tools/same.py RUN_A RUN_B

Or one config under two commits: python tools/same.py -c config.json HEAD~1 .
("." is the project as it is.) For before and after an upgrade of torch, --record keeps what the
config does in a file, which may stand for a commit later. It ends with 1 where they differ.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.checkpoints.run_folder import may_be_one
from machinery.errors import ConfigError
from machinery.files import shown
from machinery.telling import catch_user_errors, printable
from tools import children
from tools.comparing.traces import Trace, first_difference, read_trace, recorded


def main() -> None:
    """The command line."""
    args = _parser().parse_args()
    if args.updates < 1:
        raise ConfigError(f"--updates {args.updates}: expected at least 1")
    children.leave_at(["SIGTERM", "SIGHUP"])
    if args.record is not None:
        _record(args)
        return
    if len(args.which) != 2:
        raise ConfigError("expected two runs, or -c CONFIG and two commits")
    if args.config is None:
        lines, differ = _compare_runs(*args.which)
    else:
        lines, differ = _compare_traces(args)
    print(printable("\n".join(lines)))
    if differ:
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Say where two runs, or one config under two commits, first differ, to the "
        "bit. Exit code 1: they do."
    )
    which = 'runs or checkpoints; with -c: commits, "." as it is now, or files of --record'
    parser.add_argument("which", nargs="*", metavar="A B", help=which)
    config = "train this for some updates, as each commit does it"
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help=config)
    setting = "as for train.py"
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help=setting
    )
    updates = "how many updates are compared (20)"
    parser.add_argument("--updates", type=int, default=20, metavar="N", help=updates)
    record = "write what the config does now to a file, to be compared later"
    parser.add_argument("--record", type=Path, metavar="FILE", help=record)
    return parser


def _words(args: argparse.Namespace) -> list[str]:
    """The words of train.py's command line."""
    if not args.config.is_file():
        raise ConfigError(f"{args.config} is no file")
    words = ["-c", str(args.config.resolve())]
    for setting in args.settings:
        words += ["--set", setting]
    return words


def _record(args: argparse.Namespace) -> None:
    """Keep what a config does in a file."""
    if args.config is None:
        raise ConfigError("--record wants -c CONFIG")
    trace = recorded(".", _words(args), args.updates, args.record)
    print(printable(f"wrote {shown(args.record)}: {trace.updates:,} updates"))


def _compare_runs(first: str, second: str) -> tuple[list[str], bool]:
    """Lines about two runs or two checkpoints, and whether they differ."""
    from tools.comparing.runs import checkpoints_differ, compared_runs
    from tools.runs import named_runs

    files = [Path(first), Path(second)]
    if all(may_be_one(file) for file in files):
        line = checkpoints_differ(*files)
        return [line or "the same to the bit"], bool(line)
    from machinery.files import ROOT
    from tools.history.finding import find_runs

    a, b = named_runs(find_runs([ROOT]), [first, second], "same.py")
    found = compared_runs(a, b)
    if not found.differ:
        found.lines.append("the same to the bit: settings, epochs, checkpoints")
    return found.lines, found.differ


def _compare_traces(args: argparse.Namespace) -> tuple[list[str], bool]:
    """Lines about one config under two commits, and whether they differ."""
    words = _words(args)
    kept = {which: read_trace(Path(which)) for which in args.which if Path(which).is_file()}
    updates = min([args.updates, *(trace.updates for trace in kept.values())])
    a, b = [_trace(which, kept, words, updates) for which in args.which]
    found = first_difference(a, b)
    if found:
        return [found], True
    same = f"{a.updates:,} updates: batches, losses, gradients and weights are the same to the bit"
    return [same], False


def _trace(which: str, kept: dict[str, Trace], words: list[str], updates: int) -> Trace:
    """What a config does under a commit, or did when it was recorded."""
    if which not in kept:
        return recorded(which, words, updates)
    events = [event for event in kept[which].events if event["update"] <= updates]
    return Trace(which, events)


if __name__ == "__main__":
    catch_user_errors()
    main()
