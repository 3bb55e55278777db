"""A trained model for other programs: python tools/export.py -r saved/models/NAME/RUN

It writes safetensors, an exported program of PyTorch and ONNX, each read back and compared with the
model on real data, and a model card that says what it is.
"""

import argparse
import contextlib
import copy
import inspect
import io
import logging
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils._pytree import tree_map

from machinery.errors import ConfigError
from machinery.files import replacing, shown
from machinery.update.networks import without_gradients
from machinery.update.runtime import unwrap
from tools.exporting.card import MADE_OF, Example, card
from tools.exporting.reasons import reason_of
from tools.trained import Call, Trained, folder_of, parsed, seen, tensors_in

#: Computes what the model does, with what was read back.
Again = Callable[[Call], Any]
#: How far results may be from the model's, in relation to the largest of them.
TOLERANCE = 1e-5
#: Samples of the example that is traced: an exporter takes 1 for a constant.
_TRACED = 4


class Refused(Exception):
    """A format that cannot hold this model, or that computes something else."""


class Outcome(NamedTuple):
    """What has become of a format."""

    name: str
    text: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.name:<12} {self.text}"


class Fit(NamedTuple):
    """How well a format that was read back does what the model does."""

    #: How far its results are off at most.
    worst: float
    #: The least samples that it takes.
    least: int


def safetensors(model: torch.nn.Module, file: Path, call: Call, dynamic: Any) -> Again:
    """The weights alone, in a format that can hold no code; tied ones under each of their names."""
    from safetensors.torch import load_file, save_file

    weights = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise Refused(f"it holds tensors only, and {name} is none")
        weights[name] = value.detach().clone(memory_format=torch.contiguous_format)
    save_file(weights, str(file))
    again = copy.deepcopy(model)
    for value in again.state_dict().values():
        value.zero_()
    again.load_state_dict(load_file(str(file)))
    return partial(_run, again)


def program(model: torch.nn.Module, file: Path, call: Call, dynamic: Any) -> Again:
    """The network as a graph: `torch.export.load(file).module()` runs without its code."""
    args, kwargs = call
    exported = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    file.write_bytes(buffer.getbuffer())
    return partial(_run, torch.export.load(file).module())


def onnx(model: torch.nn.Module, file: Path, call: Call, dynamic: Any) -> Again:
    """The network for other runtimes."""
    import onnxruntime

    args, kwargs = call
    # A dict at the end of the arguments is taken for those by name: an empty one ends them.
    made: Any = torch.onnx.export(
        model, (*args, {}), kwargs=kwargs, dynamo=True, dynamic_shapes=dynamic, verbose=False
    )
    made.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def again(other: Call) -> Any:
        given = {}
        for place, tensor in zip(session.get_inputs(), tensors_in(other), strict=True):
            given[place.name] = tensor.numpy()
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return again


def _run(module: Callable[..., Any], call: Call) -> Any:
    args, kwargs = call
    return module(*args, **kwargs)


#: By name: what writes it and reads it back, and its file.
FORMATS = {
    "safetensors": (safetensors, "model.safetensors"),
    "program": (program, "model.pt2"),
    "onnx": (onnx, "model.onnx"),
}


def off(model: torch.nn.Module, again: Again, call: Call) -> float:
    """The largest difference from the model's results, in relation to their size.

    Raises:
        Refused: the results have other shapes.
    """
    with without_gradients(model):
        ours = tensors_in(_run(model, call))
        theirs = tensors_in(again(call))
    if len(ours) != len(theirs):
        raise Refused(f"it returns {len(theirs)} tensors in place of {len(ours)}")
    worst = 0.0
    for our, their in zip(ours, theirs, strict=True):
        worst = max(worst, _apart(our, their))
    return worst


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    if ours.shape != theirs.shape:
        raise Refused(f"it returns {list(theirs.shape)} in place of {list(ours.shape)}")
    if ours.numel() == 0:
        return 0.0
    ours = ours.double()
    apart = float((ours - theirs.double()).abs().max())
    size = float(ours.abs().max())
    if apart == 0:
        return 0.0
    if not math.isfinite(apart):
        return math.inf
    if size == 0:
        return 1.0
    return apart / size


def part(call: Call, n: int) -> Call:
    """The call with the first n samples of each tensor that is as long as the batch.

    They begin again from the first if it ends.
    """
    size = batch_of(call)

    def cut(value: Any) -> Any:
        if not _has_batch(value, size):
            return value
        return value[torch.arange(n) % size]

    found: Call = tree_map(cut, call)
    return found


def batch_of(call: Call) -> int:
    """How many samples a call holds: the length of its first tensor."""
    for tensor in tensors_in(call):
        if tensor.ndim > 0:
            return len(tensor)
    return 1


def _has_batch(value: Any, size: int) -> bool:
    """Whether a value is a tensor as long as the batch."""
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == size


def dynamic_of(model: torch.nn.Module, call: Call) -> Any:
    """That the first dimension of whatever is as long as the batch may be any number."""
    size = batch_of(call)

    def mark(value: Any) -> Any:
        if not _has_batch(value, size):
            return None
        return {0: torch.export.Dim.DYNAMIC}

    args, kwargs = call
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    return {name: tree_map(mark, value) for name, value in bound.arguments.items()}


def exported(trained: Trained, folder: Path, formats: list[str]) -> tuple[list[Outcome], Example]:
    """Write each format, read it back and compare; what became of each, and the example."""
    call: Call = tree_map(_on_cpu, next(seen(trained)).call)
    with trained.trainer.judged():  # such as a moving average of the weights
        model = copy.deepcopy(unwrap(trained.trainer.model)).cpu().eval()
    outcomes = [_outcome(name, model, folder, call) for name in formats]
    with without_gradients(model):
        return outcomes, Example(model, call, _run(model, call))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    return value


def _outcome(name: str, model: torch.nn.Module, folder: Path, call: Call) -> Outcome:
    """Write a format, and let it take the place of an earlier one if it is good."""
    write, file_name = FORMATS[name]
    file = folder / file_name
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with quiet():
                fit = _compared(write, model, Path(scratch) / file_name, call)
            if fit.worst > TOLERANCE:
                raise Refused(f"its results are off by {fit.worst:.1e}")
        except Exception as error:  # whatever an exporter says of a model that it cannot take
            text = f"refused: {reason_of(error)}"
            if file.exists():
                text += f"; the {file_name} that is there is of an earlier export"
            return Outcome(name, text, refused=True)
        for made in Path(scratch).iterdir():
            with replacing(folder / made.name) as out, open(made, "rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)
    sizes = f"for batches of {fit.least} to {max(batch_of(call), _TRACED)}"
    text = f"{shown(file)}: off by {fit.worst:.1e} at most, {sizes}"
    return Outcome(name, text, refused=False)


def _compared(write: Any, model: torch.nn.Module, file: Path, call: Call) -> Fit:
    """Write a format and read it back; how well it fits."""
    traced = part(call, _TRACED)
    with without_gradients(model):
        again: Again = write(model, file, traced, dynamic_of(model, traced))
    worst = 0.0
    for count in (_TRACED, 3, max(batch_of(call), _TRACED)):
        worst = max(worst, off(model, again, part(call, count)))
    try:
        one = off(model, again, part(call, 1))
    except Exception:  # of the model, or of a graph that was made for several
        one = math.inf
    if one <= TOLERANCE:
        return Fit(max(worst, one), least=1)
    return Fit(worst, least=3)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own reports."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(None),
        contextlib.redirect_stderr(None),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Write a trained model for other programs, and check what was written."
    )
    parser.add_argument(
        "--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS), help="which (all)"
    )
    parser.add_argument("--out", type=Path, help="folder (export/EPOCH, beside the checkpoint)")
    args, trained = parsed(parser)
    folder = folder_of(trained, f"export/{trained.epoch}", args.out)
    page = folder / "README.md"
    if page.is_file() and MADE_OF not in page.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"{shown(page)} is no card of a model: give another folder by --out")
    outcomes, example = exported(trained, folder, args.formats)
    lines = [str(outcome) for outcome in outcomes]
    made = [outcome.name for outcome in outcomes if not outcome.refused]
    with replacing(page, "w") as file:
        near = [line.replace(f"{shown(folder)}/", "") for line in lines]
        file.write(card(trained, near, made, example))
    print("\n".join([*lines, f"{'card':<12} {shown(page)}"]))
    if any(outcome.refused for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
