"""What exceptions of Python and torch are a sign of, with what can be done: memory, packages."""

import re

from machinery.errors import UserError
from machinery.files import ROOT


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
