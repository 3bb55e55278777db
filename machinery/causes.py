"""What exceptions of Python and torch are a sign of, with what can be done: memory, packages."""

import re
import traceback
from typing import Any

from machinery.errors import UserError
from machinery.files import ROOT

#: What helps where a network cannot `view` images that are channels last.
_OF_CHANNELS = (
    "trainer.channels_last is why: write x.flatten(1), or set trainer.channels_last=false"
)
#: What torch's nll_loss says of shares of classes, and what helps.
_TAKES_NO_SHARES = "multi-target not supported"
_OF_SHARES = (
    "the targets are shares of classes, as mixup and cutmix make them: set loss=cross_entropy"
)
_OF_COLUMNS = "the targets are classes in a column: a class for each sample is [n], not [n, 1]"


def is_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU, or of the machine, was too small."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def out_of_memory(error: BaseException) -> UserError:
    """That memory was too small, with what can be done."""
    first_line = str(error).partition("\n")[0]
    # Behind that, CUDA's message has a paragraph on its allocator.
    what = first_line.partition(". GPU")[0] or type(error).__name__
    hint = "half data_loader.args.batch_size and twice trainer.accumulate train the same with less"
    return UserError(f"out of memory: {what}\n  {hint}; trainer.precision=bf16 takes less, too")


def is_of_sharing(error: BaseException) -> bool:
    """Whether torch cannot compute with weights that are shared out over processes."""
    told = str(error)
    return any(word in told for word in ("DTensor", "placement changes", "Sharding propagation"))


def to_install(error: BaseException) -> str:
    """What helps where a package that the project requires is not there; empty if it is another."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    try:
        required = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    except (OSError, ValueError):  # a project may do without, or save it in another encoding
        return ""
    name = error.name.partition(".")[0]
    if re.search(rf"^{re.escape(name)}\b", required, re.MULTILINE) is None:
        return ""
    hint = "activate the project's virtual environment, or pip install -r requirements.txt"
    return f"{name} is not installed here: {hint}"


def what_helps(error: BaseException, owner: object) -> list[str]:
    """What torch's words do not say of an error of a network or a loss, as lines.

    Args:
        owner: of the loop, which has settings.
    """
    text = str(error)
    settings = getattr(owner, "settings", None)
    if "view size is not compatible" in text and getattr(settings, "channels_last", False) is True:
        return [_OF_CHANNELS]
    if _TAKES_NO_SHARES in text:
        return _of_rows(error)
    return []


def _of_rows(error: BaseException) -> list[str]:
    """What helps where a loss takes a class for each sample, and targets have rows of numbers."""
    target: Any = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        found = frame.f_locals.get("target")
        if type(found).__name__ == "Tensor":  # torch is not imported here
            target = found
    if target is None:
        return []
    if target.is_floating_point():
        return [_OF_SHARES]
    if target.ndim == 2 and target.shape[1] == 1:
        return [_OF_COLUMNS]
    return []
