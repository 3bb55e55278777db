"""The options of a command line: those of all commands, and custom ones for keys of the config."""

import argparse
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from machinery.launch.devices import VARIABLES

#: The words for what is true and what is not.
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True}
_TRUTHS |= {"false": False, "no": False, "off": False, "0": False}


class Command(NamedTuple):
    """A parsed command line."""

    args: argparse.Namespace
    #: The values of the custom options, by the keys of the config that they set; None of one that
    #: was not typed.
    modification: dict[Any, Any]


def parse(parser: argparse.ArgumentParser, options: Iterable[Any], evaluating: bool) -> Command:
    """Parse the command line (`sys.argv`), and let only the GPUs that it names be seen.

    Args:
        parser: it gets the options.
        options: custom ones, with `flags`, a `type`, and the key of the config as `target`.
        evaluating: there is no `--check` then.
    """
    targets = _add_custom_options(parser, options)
    _add_common_options(parser, evaluating)
    args = parser.parse_args()
    if args.resume is not None and args.config == parser.get_default("config"):
        args.config = None  # nobody has typed it
    if args.device is not None:
        for variable in VARIABLES:
            os.environ[variable] = args.device
    modification = {}
    for name, target in targets.items():
        modification[target] = getattr(args, name)
    return Command(args, modification)


def _add_custom_options(
    parser: argparse.ArgumentParser, options: Iterable[Any]
) -> dict[str, str | tuple[str, ...]]:
    """The keys that the options set, by the names of their values in the parsed command line."""
    targets = {}
    for option in options:
        keys = option.target
        if isinstance(keys, str):
            keys = keys.split(";")
        kind = option.type
        if kind is bool:  # which takes any text but "" for true
            kind = _truth
        added = parser.add_argument(*option.flags, type=kind, help=f"sets {'.'.join(keys)}")
        targets[added.dest] = option.target
    return targets


def _truth(text: str) -> bool:
    """The value of an option that is true or false.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    word = text.lower()
    if word not in _TRUTHS:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return _TRUTHS[word]


def _add_common_options(parser: argparse.ArgumentParser, evaluating: bool) -> None:
    """Add the options of all commands that the program has not declared itself."""
    _add(parser, "-c", "--config", help="config file")
    resume = "checkpoint or run folder; with -c, to train: take only its weights"
    _add(parser, "-r", "--resume", help=resume)
    _add(parser, "-d", "--device", help="GPUs to use, as for CUDA_VISIBLE_DEVICES")
    _add(
        parser,
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the config",
    )
    _add(parser, "--run_id", help="name of the run's folder; by default the time")
    _add(parser, "--traceback", action="store_true", help="show the traceback of an error")
    if not evaluating:
        check = "try everything on one batch, leave nothing behind"
        _add(parser, "--check", action="store_true", help=check)


def _add(parser: argparse.ArgumentParser, *flags: str, **settings: Any) -> None:
    """Add an option unless the program has declared one of its flags."""
    # argparse has no public way to ask for an option. To add it, and to catch the conflict, is
    # none: a parser that resolves conflicts would let ours replace the program's own.
    declared = parser._option_string_actions
    if declared.keys().isdisjoint(flags):
        parser.add_argument(*flags, **settings)
