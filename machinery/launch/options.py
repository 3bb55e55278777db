"""The options of a command line: those of all commands, and custom ones for keys of the config."""

import argparse
import copy
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machinery.launch.devices import VARIABLES
from machinery.launch.meant import meant

#: The words for what is true and what is not.
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True}
_TRUTHS |= {"false": False, "no": False, "off": False, "0": False}


class Command(NamedTuple):
    """A parsed command line."""

    args: argparse.Namespace
    #: The values of the custom options, by the keys of the config that they set; None of one that
    #: was not typed.
    modification: dict[Any, Any]
    #: What was typed of the options that are neither ours nor of the config.
    own_words: list[str]
    #: Whether the program takes `--set`.
    takes_set: bool


#: The options of all commands, as a program that parses itself may lack them.
_NONE_TYPED: dict[str, Any] = {
    "config": None,
    "resume": None,
    "device": None,
    "set": [],
    "run_id": None,
    "traceback": False,
    "check": False,
}
#: How a program parses its arguments itself; ours would be unknown to it.
_PARSES = re.compile(r"\.parse_args\(")


def parse(
    parser: argparse.ArgumentParser | argparse.Namespace, options: Iterable[Any], evaluating: bool
) -> Command:
    """Parse the command line (`sys.argv`), and let only the GPUs that it names be seen.

    Args:
        parser: it gets the options; or what a program has parsed itself.
        options: custom ones, with `flags`, a `type`, and the key of the config as `target`.
        evaluating: there is no `--check` then.
    """
    if isinstance(parser, argparse.Namespace):
        command = _parsed(parser, options)
    else:
        command = _parse(parser, options, evaluating)
    args = command.args
    if args.device is not None:
        for variable in VARIABLES:
            os.environ[variable] = args.device
    return command


def _parse(parser: argparse.ArgumentParser, options: Iterable[Any], evaluating: bool) -> Command:
    """Parse the command line with the options of all commands."""
    declared = _actions_of(parser)
    targets = _add_custom_options(parser, options)
    _add_common_options(parser, evaluating)
    try:
        args = parser.parse_args()
    except SystemExit as end:
        if end.code == 2:
            better = meant(sys.argv[1:], parser._option_string_actions)
            if better:
                print(f"did you mean {better}?", file=sys.stderr)
        raise
    if args.resume is not None and not _types_config(sys.argv[1:]):
        args.config = None  # it is the parser's default
    modification = {target: getattr(args, name) for name, target in targets.items()}
    own = _own_words(parser, targets.keys())
    return Command(args, modification, own, "set" in declared or not _parses_itself())


def _actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options and arguments of a parser by the names of their values."""
    # argparse has no public way to ask for them.
    return {action.dest: action for action in parser._actions}


def _parsed(args: argparse.Namespace, options: Iterable[Any]) -> Command:
    """The command line of a program that has parsed it itself, as the classic template lets it."""
    typed = sys.argv[1:]
    given = argparse.Namespace(**{**copy.deepcopy(_NONE_TYPED), **vars(args)})
    if given.resume is not None and not _types_config(typed):
        given.config = None  # it is the parser's default
    modification = {}
    for option in options:
        name = next((flag for flag in option.flags if flag.startswith("--")), option.flags[0])
        modification[option.target] = getattr(args, name.lstrip("-").replace("-", "_"), None)
    return Command(given, modification, [*_without_common(typed)], "set" in args)


def _types_config(words: list[str]) -> bool:
    """Whether a command line names a config, be it the one that is the parser's default."""
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--c") and "--config".startswith(option):
            return True
        if word.startswith("-c"):
            return True
    return False


def _parses_itself() -> bool:
    """Whether the program parses its arguments before it hands us the parser."""
    try:
        return bool(_PARSES.search(Path(sys.argv[0]).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # it is none that can be read
        return False


def _own_words(parser: argparse.ArgumentParser, custom: Iterable[str]) -> list[str]:
    """What was typed of the program's own options, its arguments without an option at the end."""
    plain = copy.deepcopy(parser)
    for action in _actions_of(plain).values():
        action.type = None
        if not hasattr(action, "add_parser"):  # which choose one
            action.choices = None
    typed = vars(plain.parse_args())
    named: list[str] = []
    unnamed: list[str] = []
    for action in _actions_of(plain).values():
        value = typed.get(action.dest, action.default)
        if action.dest in (*_NONE_TYPED, *custom) or value == action.default:
            continue
        if action.option_strings:
            named += _words(action, value)
        else:
            unnamed += map(str, _as_list(value))
    return [*named, *unnamed]


def _words(action: argparse.Action, value: Any) -> Iterator[str]:
    """What was typed of an option."""
    flag = action.option_strings[-1]
    items = _as_list(value)
    if action.nargs == 0:
        count = 1
        if action.const is None and type(value) is int:  # it counts how often it is typed
            count = value
        yield from [flag] * count
    elif isinstance(value, list) and (action.nargs is None or list in map(type, items)):
        for item in items:  # it was typed several times
            yield from (flag, *map(str, _as_list(item)))
    else:
        yield from (flag, *map(str, items))


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value]


def _without_common(typed: list[str]) -> Iterator[str]:
    """The words of a command line without the options of all commands, and their values."""
    common = ("-c", "--config", "-r", "--resume", "-d", "--device", "--set", "--run_id")
    skipping = False
    for word in typed:
        flag, equals, _ = word.partition("=")
        if skipping:
            skipping = False
        elif flag in common:
            skipping = not equals
        elif word not in ("--check", "--traceback"):
            yield word


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
