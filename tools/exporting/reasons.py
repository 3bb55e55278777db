"""Why a format cannot hold a model, in plain words: exporters tell it at length."""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from machinery.files import ROOT, shown
from machinery.telling import printable

#: How many letters of a reason are told.
_LONGEST = 300
#: What exporters colour their messages with.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: A line of code in a message, or in a traceback.
_PLACE = re.compile(r'File "([^"]+)", line (\d+), in \w+\s*\n\s*([^\n]+)')
#: The name of an operation of torch's.
_OPERATION = re.compile(r"OpOverload\(op='(?:aten\.)?([\w.]+)'|torch\.ops\.(?:aten\.)?([\w.]+)")
#: What torch calls an exception, whose name says more than where it is from.
_PREFIX = re.compile(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception|Node)): ")


def reason_of(error: BaseException) -> str:
    """Why a format is refused, in a line; with the line of the model's code that is the cause."""
    errors = list(_with_causes(error))
    text = "\n".join(_COLOURS.sub("", f"{type(each).__name__}: {each}") for each in errors)
    found = _known(text)
    if not found:
        found = _shortened(errors[-1])
    place = _place(text, errors)
    words = " ".join(found.split())[:_LONGEST]
    if place:
        words += f", at {place}"
    return printable(words)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and what it was raised for, the first cause last."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


def _known(text: str) -> str:
    """What is known of a message; "" if nothing."""
    if "data-dependent" in text or "DataDependent" in text:
        return (
            "what it computes depends on values of the data, as by an if or .item(), "
            "and a graph is the same for all data"
        )
    if "Constraints violated" in text or "specialized it to be a constant" in text:
        return "its code has the number of samples of the example in it: other batches do not fit"
    if "No ONNX function" in text or "missing ONNX function" in text or "DispatchError" in text:
        operation = _OPERATION.search(text)
        if operation is not None:
            return f"ONNX has nothing for the operation {operation[1] or operation[2]}"
    if "numpy() is not supported" in text:
        return "it computes with NumPy, which no graph can hold"
    return ""


def _shortened(error: BaseException) -> str:
    """The first line of a message, without where its class is from."""
    lines = _COLOURS.sub("", str(error)).strip().splitlines() or [""]
    kind = type(error).__name__
    text = _PREFIX.sub("", lines[0])
    if kind in ("RuntimeError", "ValueError", "Refused", "UserError") and text:
        return text
    return f"{kind}: {text}"


def _place(text: str, errors: list[BaseException]) -> str:
    """The last line of the project's own code that a message, or its traceback, names."""
    places = []
    for file, line, code in _PLACE.findall(text):
        places.append((file, line, code))
    for each in errors:
        for frame in traceback.extract_tb(each.__traceback__):
            places.append((frame.filename, str(frame.lineno), frame.line or ""))
    found = ""
    for file, line, code in places:
        if _is_models(Path(file)):
            found = f"{shown(Path(file))}:{line}: {code.strip()}"
    return found


def _is_models(file: Path) -> bool:
    """Whether a file is of the project, and none of its tools or of what keeps its promises."""
    if not file.is_absolute() or not file.is_relative_to(ROOT) or "site-packages" in file.parts:
        return False
    return file.relative_to(ROOT).parts[0] not in ("tools", "machinery", "base")
