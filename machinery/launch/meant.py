"""What a command line that cannot be parsed may be meant to be."""

import re
import shlex
from collections.abc import Container, Iterator

#: A value for a key of the config.
_ASSIGNED = re.compile(r"[A-Za-z_][\w.\[\]]*=")
#: Keys of the config outside of its sections.
_OUTSIDE = ("name", "seed", "n_gpu")
#: Options without a value.
_FLAGS = ("--check", "--traceback")


def meant(words: list[str], options: Container[str]) -> str:
    """The words that a wrong command line should hold; empty if nobody knows.

    Args:
        words: of the command line, without the program.
        options: that the program has.
    """
    if words and words[0].endswith(".json"):
        return shlex.join(["-c", words[0]])
    settings: list[str] = []
    for setting in _settings(words, options):
        settings += ["--set", setting]
    return shlex.join(settings)


def _settings(words: list[str], options: Container[str]) -> Iterator[str]:
    """The keys of the config that were to be set, with their values."""
    keys = _keys()
    for i, word in enumerate(words):
        before = "".join(words[:i][-1:])
        value = "".join(words[i + 1 : i + 2])
        option, is_one_word, rest = word.partition("=")
        if is_one_word:
            value = rest
        if before == "--set":
            if not is_one_word and value and not value.startswith("-"):
                yield f"{word}={value}"
        elif option in keys and option not in options and value:
            yield f"{keys[option]}={value}"
        elif _ASSIGNED.match(word) and not _wants_a_word(before):
            yield word


def _keys() -> dict[str, str]:
    """Keys of the config by the options that one may take them for: --epochs, --seed."""
    from machinery.config.settings import TrainerSettings

    keys = {f"--{name}": name for name in _OUTSIDE}
    for name in TrainerSettings.model_fields:
        keys[f"--{name}"] = f"trainer.{name}"
    return keys


def _wants_a_word(option: str) -> bool:
    """Whether the word behind an option is its value, as far as can be seen."""
    if "=" in option or option in _FLAGS:
        return False
    return option.startswith("-")
