"""Where the parts of a tensor lie that stand in several files.

A part is what torch.distributed.checkpoint knows of it: its offsets and its sizes, a number for
each dimension.
"""

from collections.abc import Iterable
from typing import Any


def are_apart(chunks: Iterable[Any]) -> bool:
    """Whether parts lie within their tensor, and no two of them have a number in common.

    Args:
        chunks: the parts, in any order.
    """
    before: list[Any] = []
    for chunk in sorted(chunks, key=_begins_at):
        begins = _begins_at(chunk)
        if len(begins) != len(chunk.sizes) or min(begins, default=0) < 0:
            return False
        if any(_share_numbers(each, chunk) for each in before):
            return False
        # Of the parts before this one only those reach later ones that end behind its first row.
        before = [each for each in before if _ends_behind(each, begins)]
        before.append(chunk)
    return True


def _ends_behind(chunk: Any, begins: tuple[int, ...]) -> bool:
    """Whether a part ends behind a place, in the first dimension."""
    return not begins or _ends_at(chunk)[0] > begins[0]


def _begins_at(chunk: Any) -> tuple[int, ...]:
    """Where a part has its first number, in each dimension."""
    return tuple(chunk.offsets)


def _ends_at(chunk: Any) -> list[int]:
    """Where a part has ended, in each dimension."""
    return [begin + size for begin, size in zip(chunk.offsets, chunk.sizes, strict=True)]


def _share_numbers(one: Any, other: Any) -> bool:
    """Whether two parts of a tensor overlap in each dimension."""
    pairs = zip(one.offsets, _ends_at(one), other.offsets, _ends_at(other), strict=True)
    return all(begin < end_2 and begin_2 < end for begin, end, begin_2, end_2 in pairs)
