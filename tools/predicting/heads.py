"""What a model is for, by what it returns and what that is compared with.

A model may have several heads: a dict or a tuple of outputs, with as many targets.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from machinery.errors import ConfigError, DataError
from machinery.telling import described
from tools.pictures import images_in
from tools.predicting.classes import Classes
from tools.predicting.kinds import Kind, Part
from tools.predicting.labels import Labels
from tools.predicting.masks import Masks
from tools.predicting.numbers import Numbers
from tools.predicting.pixels import Pixels
from tools.predicting.text import Text
from tools.trained import Seen, Trained, seen

#: The method of a trainer of one's own that says what its outputs mean.
DOOR = "predictions"
#: Numbers of a sample that are a table, and no picture.
_NUMBERS = 64


class Head(NamedTuple):
    """What one head returns for a batch, and what it is compared with."""

    name: str
    output: torch.Tensor
    target: torch.Tensor


def heads_of(each: Seen) -> list[Head]:
    """The heads of a model by name; one alone is called ""."""
    output = each.output
    target = each.target
    if isinstance(output, Mapping) and isinstance(target, Mapping):
        both = [name for name in output if name in target]
        pairs = [(str(name), output[name], target[name]) for name in both]
    elif _are_several(output, target):
        pairs = [(f"head{i}", *pair) for i, pair in enumerate(zip(output, target, strict=True))]
    else:
        if isinstance(output, tuple | list) and output:
            output = output[0]  # the others are by the way, as those of a VAE
        pairs = [("", output, target)]
    found = []
    for name, ours, theirs in pairs:
        if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
            found.append(Head(name, ours.cpu(), theirs.cpu()))
    return found


def _are_several(output: Any, target: Any) -> bool:
    """Whether there are as many targets as outputs."""
    if not isinstance(output, tuple | list) or not isinstance(target, tuple | list):
        return False
    return len(output) == len(target)


def kind_of(output: torch.Tensor, target: torch.Tensor) -> Callable[[Any], Kind] | None:
    """What a head is for; None where nobody knows."""
    whole = not target.is_floating_point() and not target.is_complex()
    if output.ndim == 2 and target.ndim == 1 and whole and output.shape[1] > 1:
        return Classes
    if _without_channel(output) == _without_channel(target) and _are_labels(target):
        if output.ndim >= 3:
            return Masks
        return Labels
    if whole and output.ndim == 4 and target.shape == (len(output), *output.shape[2:]):
        return Masks
    if whole and output.ndim == 3 and _leaves_one_out(output, target):
        return Text
    return _kind_of_numbers(output, target)


def _kind_of_numbers(output: torch.Tensor, target: torch.Tensor) -> Callable[[Any], Kind] | None:
    """What a head is for that returns as many numbers as there are in the target."""
    if output.numel() != target.numel() or not output.is_floating_point():
        return None
    if output.ndim == 4 and output.shape == target.shape:
        return Pixels
    if output.ndim <= 2 and len(output) == len(target) and output[:1].numel() <= _NUMBERS:
        return Numbers
    return None


def _without_channel(tensor: torch.Tensor) -> list[int]:
    """A shape without a second dimension of one channel, or one number."""
    shape = list(tensor.shape)
    if len(shape) > 1 and shape[1] == 1:
        del shape[1]
    return shape


def _are_labels(target: torch.Tensor) -> bool:
    """Whether all of a target is true or false, 1 or 0."""
    if target.dtype == torch.bool:
        return True
    return target.numel() > 0 and bool(((target == 0) | (target == 1)).all())


def _leaves_one_out(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether an output is scores [n, places, tokens], or [n, tokens, places]."""
    n, a, b = output.shape
    return target.shape in ((n, a), (n, b))


def predictions_of(trained: Trained) -> tuple[list[dict[str, Any]], dict[str, Kind]]:
    """A row for each sample of a split, and what each head has shown.

    Raises:
        ConfigError: it is not known what the outputs mean.
        DataError: there are no samples, or outputs are not finite.
    """
    door = getattr(trained.trainer, DOOR, None)
    rows: list[dict[str, Any]] = []
    kinds: dict[str, Kind] = {}
    for each in seen(trained):
        if callable(door):
            for row in door(each.output, each.target):
                rows.append({"sample": len(rows), **row})
            continue
        for found in _rows(each, kinds, trained, first=len(rows)):
            rows.append(found)
    if not rows:
        raise DataError("the loader has no samples")
    return rows, kinds


def _rows(
    each: Seen, kinds: dict[str, Kind], trained: Trained, first: int
) -> Iterator[dict[str, Any]]:
    """The rows of a batch.

    Args:
        first: the number of its first sample.
    """
    heads = heads_of(each)
    if not heads:
        raise _unknown(each.output, each.target, trained)
    pictures = images_in(each.call)
    columns = []
    for head in heads:
        if not bool(head.output.isfinite().all()):
            spoilt = "its weights, or these samples, are spoilt"
            raise DataError(f"the model's outputs are not finite: {spoilt}")
        if head.name not in kinds:
            make = kind_of(head.output, head.target)
            if make is None:
                raise _unknown(head.output, head.target, trained)
            kinds[head.name] = make(trained.loader)
        part = Part(first, head.output, head.target, _of_samples(pictures, head.output))
        columns.append((head.name, kinds[head.name].add(part)))
    for number in range(len(columns[0][1])):
        row: dict[str, Any] = {"sample": first + number}
        for name, rows in columns:
            row.update({_named(name, column): value for column, value in rows[number].items()})
        yield row


def _named(head: str, column: str) -> str:
    """The column of a head; where there is one alone, as it is."""
    if not head:
        return column
    return f"{head}_{column}"


def _of_samples(pictures: torch.Tensor | None, output: torch.Tensor) -> torch.Tensor | None:
    """The pictures, if there is one for each sample."""
    if pictures is None or len(pictures) != len(output):
        return None
    return pictures.detach().cpu()


def _unknown(output: Any, target: Any, trained: Trained) -> ConfigError:
    """The error for outputs that nobody knows the meaning of."""
    found = f"outputs {described(output) or type(output).__name__}"
    found += f", targets {described(target) or type(target).__name__}"
    name = type(trained.trainer).__name__
    return ConfigError(
        f"what the outputs mean is not known: {found}\n"
        f"  a method of {name} can say it: def {DOOR}(self, output, target), which gives a dict\n"
        "  of columns for each sample of a batch"
    )


def report(kinds: dict[str, Kind], folder: Path, n: int) -> Iterator[str]:
    """Lines about what the heads have shown, and their pictures.

    Args:
        n: of the most wrong, show so many.
    """
    for name, kind in kinds.items():
        prefix = ""
        if name:
            prefix = f"{name}-"
            yield f"{name}:"
        yield from kind.report(folder, prefix, n)
