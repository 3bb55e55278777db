"""Checks the types, the bounds and the names of a config's keys against the schema."""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from machinery.config.changes import COMMAND_LINE, PROGRAM, override
from machinery.config.classic import Eased, eased
from machinery.config.schema import SECTIONS, Config, NamedComponent
from machinery.config.scripts import Seeding as Seeding
from machinery.config.settings import TrainerSettings
from machinery.config.source import Source, dotted, leaves, to_plain
from machinery.config.values import KeyPath, in_words, is_sets, nearest
from machinery.config.variables import misplaced, plain_secrets
from machinery.errors import ConfigError
from machinery.files import ROOT

#: Keys that are known by another name, or to others.
_ACCEPTED = (("$schema",), ("trainer", "tensorboardX"))
#: What pydantic puts into the key path of a value that may be a name or a component.
_TAGS = ("name", "component", "(sets)", "[key]")

#: A checkpoint is read back to a depth of 255, and wraps its config.
_DEEPEST = 100


class OwnKey(NamedTuple):
    """A key that the schema doesn't know."""

    path: KeyPath
    #: The known key that it is like.
    near: str | None
    #: Whether that one is there, too; then this is hardly a slip.
    beside: bool = False


class Checked(NamedTuple):
    """A checked config."""

    #: The values as they were given, which know their origins.
    source: Source
    #: The same, typed and with the defaults filled in.
    settings: Config
    #: The same as they were given, for whoever reads and changes them.
    values: dict[str, Any]
    own_keys: tuple[OwnKey, ...]
    #: Whose seed the run has, where there is none in the config.
    seeding: Seeding = Seeding()
    #: What of it means something else here than such a script may expect.
    notes: tuple[str, ...] = ()

    @property
    def ends_at_nan(self) -> bool:
        """Whether the run ends where the number that judges its epochs is not finite.

        A script of a classic project's kind has to say so: a score of its own may be undefined.
        """
        given = self.values["trainer"]
        return self.settings.trainer.on_nan == "stop" and (
            "on_nan" in given or not self.source.classic
        )

    def weights_file(self) -> Path | None:
        """The file that `arch.weights` names, if it names one.

        Raises:
            ConfigError: it is in the home folder of nobody, or its name is too long.
        """
        arch = self.settings.arch
        if arch is None or arch.weights is None:
            return None
        try:
            file = ROOT / Path(arch.weights).expanduser()
            file.is_file()  # which some names cannot be asked for
        except (RuntimeError, OSError) as error:
            where = f"{self.source.where(('arch', 'weights'))}: arch.weights"
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{where}: {in_words(arch.weights)}: {reason}") from None
        return file

    def tell_own_keys(self, logger: logging.Logger) -> None:
        """Name the keys of the user's own, and secrets.

        It may not be meant that nobody else reads the ones, nor that records lack the others.
        """
        for key in self.own_keys:
            what = f"{dotted(key.path)} is a key of your own"
            if key.near is None:
                logger.debug(what)
            elif key.beside:
                logger.warning(f"{what}, beside {key.near}")
            else:
                logger.warning(f"{what}: only your code reads it, and {key.near} is not there")
        for note in self.notes:
            logger.warning(note)
        for secret in plain_secrets(self.source):
            shown = "records show *** for the secret in it, and -r will ask for it"
            way = '"${NAME}" in its place takes it from the environment'
            logger.warning(f"{secret}: {shown}: {way}")


def check(
    source: Source,
    modification: Mapping[Any, Any] | None = None,
    classic: bool = False,
    by: str = COMMAND_LINE,
) -> Checked:
    """Set the keys of `modification`, and check types, bounds and unknown keys.

    Args:
        source: of the values, which are changed.
        modification: values by key path, as "optimizer;args;lr", "optimizer.args.lr" or a tuple;
            None values are skipped.
        classic: it is for a script that reads it itself, as those of classic projects: a key of
            its own may be like a known one, and values may be what the classic template takes.
        by: who modifies.

    Raises:
        ConfigError: with a line for each problem.
    """
    if modification is not None:
        _modify(source, modification, by)
    own_keys = tuple(_own_keys(source))
    source.classic = classic
    for_schema = Eased(source.values, [])
    if classic:
        for_schema = eased(source)
    problems = []
    for key in own_keys:
        if key.near is not None and not key.beside and not classic:
            where = f"{source.where(key.path)}: {dotted(key.path)}"
            problems.append(f"{where} is unknown: did you mean {key.near!r}?")
    problems += _too_deep(source)
    problems += misplaced(source)
    try:
        settings = Config.model_validate(for_schema.values)
    except ValidationError as error:
        problems += [_worded(source, dict(item)) for item in error.errors()]
    if problems:
        raise ConfigError("\n  ".join(dict.fromkeys(problems)))
    checked = Checked(source, settings, to_plain(source.values), own_keys)
    return checked._replace(notes=tuple(for_schema.notes))


def checked_config(config: Any, modification: Mapping[Any, Any] | None) -> Checked:
    """A config in any of its forms, checked: its values, or the path of a file.

    Args:
        config: the values of a config, or the path of one.
        modification: values by key path, as for `check`.

    Raises:
        ConfigError: with all problems.
    """
    if isinstance(config, Checked):
        return config
    if isinstance(config, str | Path):
        config = Source.read(Path(config))
    elif not isinstance(config, Source):
        config = Source.of(config)
    return check(config, modification, by=PROGRAM)


def _too_deep(source: Source) -> list[str]:
    """A line for a config that no checkpoint could be read back with."""
    for path, _ in leaves(source.values):
        if len(path) > _DEEPEST:
            return [f"{source.where(path)}: {dotted(path[:1])}: nested too deeply"]
    return []


def _modify(source: Source, modification: Mapping[Any, Any], by: str) -> None:
    """Set keys by their paths, which are texts or tuples."""
    for target, value in modification.items():
        if value is None:
            continue
        path = target
        if isinstance(target, str):
            path = target.split(";" if ";" in target else ".")
        elif not isinstance(target, list | tuple) or not target:
            raise ConfigError(f"{by}: {target!r} is no path of keys, such as optimizer.args.lr")
        override(source, tuple(path), value, f"{by} ({dotted(tuple(path))})")


def _own_keys(source: Source) -> Iterator[OwnKey]:
    """The keys that the schema doesn't know."""
    for path, values, model in _sections(source):
        if not isinstance(values, dict):
            continue
        for key in values:
            if key not in model.model_fields and (*path, key) not in _ACCEPTED:
                yield _own_key((*path, key), values, model)


def _sections(source: Source) -> Iterator[tuple[KeyPath, Any, type[BaseModel]]]:
    """The sections whose keys are known, with their values and their models."""
    yield (), source.values, Config
    for name, model in SECTIONS.items():
        values: Any = source.values.get(name)
        if is_sets(name, values):
            for key, each in values.items():
                yield (name, key), each, model
        else:
            yield (name,), values, model
    metrics = source.values.get("metrics")
    if isinstance(metrics, list):
        for i, metric in enumerate(metrics):
            yield ("metrics", i), metric, NamedComponent


def _own_key(path: KeyPath, values: dict[str, Any], model: type[BaseModel]) -> OwnKey:
    """What a key that the schema doesn't know is like.

    Args:
        path: to it.
        values, model: of the section that it is in.
    """
    *above, key = path
    if not above and _is_one_more(str(key)):
        return OwnKey(path, None)
    if not above and key in TrainerSettings.model_fields:
        return OwnKey(path, f"trainer.{key}")
    if path == ("trainer", "seed"):
        return OwnKey(path, "seed")
    names = [*model.model_fields]
    if not above:
        names.append("base")  # which has been read when this is asked
    near = nearest(str(key), names)
    return OwnKey(path, near, beside=near in values)


def _is_one_more(key: str) -> bool:
    """Whether a key is one more of a known section: optimizer_D, arch2, my_loss."""
    for name in Config.model_fields:
        if re.fullmatch(rf"{name}(_.+|\d+)|.+_{name}", key):
            return True
    return False


def _worded(source: Source, error: dict[str, Any]) -> str:
    """One of pydantic's errors as: origin: key path: what is expected, what was found."""
    if not error["loc"]:  # a key that is no text
        return f"{source.name}: {_expected((), error)}"
    first, *below = error["loc"]
    path = (first, *(key for key in below if key not in _TAGS))
    if error["type"] == "missing":
        what = 'is missing; a config that has it may be its "base"'
        return f"{source.where(path[:-1])}: {dotted(path)} {what}"
    where = f"{source.where(path)}: {dotted(path)}"
    return f"{where}: {_expected(path, error)}, found {in_words(error['input'])}"


def _expected(path: KeyPath, error: dict[str, Any]) -> str:
    """What one of pydantic's errors asks for."""
    if error["type"].startswith("model_"):
        return "expected an object in braces"
    if error["loc"][-1:] == ("[key]",):
        return 'expected a name of letters, digits, "_" and "-"'
    if error["type"] == "string_pattern_mismatch":
        field = _model_above(path).model_fields.get(dotted(path[-1:]))
        if field is not None:
            described = str(field.description).rstrip(".")
            return f"expected {described[0].lower()}{described[1:]}"
    said = str(error["msg"]).replace("Input should be", "expected").replace("'", '"')
    return said.replace("False, True", "false, true")


def _model_above(path: KeyPath) -> type[BaseModel]:
    """The model of the section that has the key at `path`."""
    if len(path) == 1:
        return Config
    return SECTIONS.get(str(path[0]), Config)
