"""A trained model for other programs: python tools/export.py -r saved/models/NAME/RUN

It writes safetensors, an exported program of PyTorch and ONNX, each read back and compared with the model on real data,
and a model card that says what it is.
"""

import argparse
import contextlib
import copy
import inspect
import io
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils._pytree import tree_leaves, tree_map

from machinery.errors import ConfigError
from machinery.files import read_json, replacing, shown
from machinery.telling import printable, told
from machinery.update.runtime import unwrap
from tools.history.records import is_current
from tools.trained import Trained, folder_of, parsed, seen

Call = tuple[tuple[Any, ...], dict[str, Any]]
REFUSED = "refused"
#: A title of the cards, by which they are known.
MADE_OF = "## Made of"
#: How far results may be from the model's, in relation to the largest of them.
TOLERANCE = 1e-5


class Refused(Exception):
    """A format that cannot hold this model, or that computes something else."""


def safetensors(model: torch.nn.Module, file: Path, call: Call, dynamic: Any) -> Callable[[Call], Any]:
    """The weights alone, in a format that can hold no code."""
    from safetensors.torch import load_model, save_model

    odd = [name for name, value in model.state_dict().items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise Refused(f"it holds tensors only, and {odd[0]} is none")
    save_model(model, str(file))
    again = copy.deepcopy(model)
    for value in again.state_dict().values():
        value.zero_()
    load_model(again, str(file))
    return lambda other: again(*other[0], **other[1])


def program(model: torch.nn.Module, file: Path, call: Call, dynamic: Any) -> Callable[[Call], Any]:
    """The network as a graph with its weights: `torch.export.load(file).module()` runs without its code."""
    exported = torch.export.export(model, *call, dynamic_shapes=dynamic, strict=False)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    file.write_bytes(buffer.getbuffer())
    again: Any = torch.export.load(file).module()
    return lambda other: again(*other[0], **other[1])


def onnx(model: torch.nn.Module, file: Path, call: Call, dynamic: Any) -> Callable[[Call], Any]:
    """The network for other runtimes."""
    import onnxruntime

    args, kwargs = call
    made: Any = torch.onnx.export(model, args, kwargs=kwargs, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    made.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def again(other: Call) -> Any:
        tensors = [each for each in tree_leaves(other) if isinstance(each, torch.Tensor)]
        names = [each.name for each in session.get_inputs()]
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return again


FORMATS = {
    "safetensors": (safetensors, "model.safetensors"),
    "program": (program, "model.pt2"),
    "onnx": (onnx, "model.onnx"),
}


def off(model: torch.nn.Module, again: Callable[[Call], Any], call: Call) -> float:
    """The largest difference from the model's results, in relation to their size."""
    with torch.no_grad():
        pairs = [
            [each for each in tree_leaves(f) if isinstance(each, torch.Tensor)]
            for f in (model(*call[0], **call[1]), again(call))
        ]
    if len(pairs[0]) != len(pairs[1]):
        raise Refused(f"it returns {len(pairs[1])} tensors in place of {len(pairs[0])}")
    worst = 0.0
    for ours, theirs in zip(*pairs, strict=True):
        if ours.shape != theirs.shape:
            raise Refused(f"it returns {list(theirs.shape)} in place of {list(ours.shape)}")
        size = float(ours.abs().max()) if ours.numel() else 0.0
        apart = float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0
        worst = max(worst, apart / size if size else float(apart > 0)) if apart == apart else float("inf")
    return worst


def part(call: Call, n: int) -> Call:
    """The call with the first samples of each tensor that is as long as the batch; again from the first, if it ends."""
    size = batch_of(call)

    def cut(each: Any) -> Any:
        whole = not (isinstance(each, torch.Tensor) and each.ndim and len(each) == size)
        return each if whole else each[torch.arange(n) % size]

    found: Call = tree_map(cut, call)
    return found


def batch_of(call: Call) -> int:
    """How many samples a call holds: the length of its first tensor."""
    return next((len(each) for each in tree_leaves(call) if isinstance(each, torch.Tensor) and each.ndim), 1)


def dynamic_of(model: torch.nn.Module, call: Call) -> Any:
    """That the first dimension of whatever is as long as the batch may be any number."""
    size = batch_of(call)
    batch = torch.export.Dim.DYNAMIC

    def marks(each: Any) -> Any:
        return {0: batch} if isinstance(each, torch.Tensor) and each.ndim and len(each) == size else None

    bound = inspect.signature(model.forward).bind(*call[0], **call[1]).arguments
    return {name: tree_map(marks, value) for name, value in bound.items()}


def exported(trained: Trained, folder: Path, formats: list[str]) -> tuple[list[str], Call]:
    """Write each format, read it back and compare; a line for each."""
    call, _, _, _ = next(seen(trained))
    with trained.trainer.judged():  # such as a moving average of the weights
        model = copy.deepcopy(unwrap(trained.trainer.model)).cpu().eval()
    call = tree_map(lambda each: each.cpu() if isinstance(each, torch.Tensor) else each, call)
    lines = []
    for name in formats:
        write, file_name = FORMATS[name]
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / file_name
            try:
                with quiet():
                    worst, least = _compared(write, model, file, call)
                if worst > TOLERANCE:
                    raise Refused(f"its results are off by {worst:.1e}")
            except Exception as error:  # whatever an exporter says of a model that it cannot take
                why = str(error) if isinstance(error, Refused) else told(error, anywhere=False)
                why = printable(" ".join(why.split())[:300])
                old = (
                    f"; the {file_name} that is there is of an earlier export" if (folder / file_name).exists() else ""
                )
                lines.append(f"{name:<12} {REFUSED}: {why}{old}")
                continue
            for made in Path(scratch).iterdir():  # now that it is good, it takes the place of an earlier one
                with replacing(folder / made.name) as out, open(made, "rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
        size = f"for batches of {least} to {max(batch_of(call), 4)}"
        lines.append(f"{name:<12} {shown(folder / file_name)}: off by {worst:.1e} at most, {size}")
    return lines, call


def _compared(write: Any, model: torch.nn.Module, file: Path, call: Call) -> tuple[float, int]:
    """Write a format and read it back; by how much it is off, and how many samples it wants at least."""
    some = part(call, 4)
    with torch.no_grad():
        again: Callable[[Call], Any] = write(model, file, some, dynamic_of(model, some))
    worst = max(off(model, again, each) for each in (some, part(call, 3), part(call, max(batch_of(call), 4))))
    one = float("inf")
    with contextlib.suppress(Exception):  # of the model, or of a graph that was made for several
        one = off(model, again, part(call, 1))
    return (max(worst, one), 1) if one <= TOLERANCE else (worst, 3)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own reports."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def card(trained: Trained, lines: list[str], call: Call) -> str:
    """What the model is, for whoever finds it."""
    config, resume = trained.config, trained.config.resume
    assert resume is not None
    shapes = [
        f"{str(each.dtype).removeprefix('torch.')} {list(each.shape)}"
        for each in tree_leaves(call)
        if isinstance(each, torch.Tensor)
    ]
    precision = config.settings.trainer.precision
    results, low = [], "" if precision == "fp32" else f", in {precision}, which the files are not"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for result in read_json(resume.parent / "test.json")["results"]:
            if result["checkpoint"] == resume.name and is_current(resume.parent, result):
                numbers = ", ".join(f"{name} {value:.6g}" for name, value in result["metrics"].items())
                results.append(f"* {result['split']} ({result['samples']:,} samples{low}): {numbers}")
    around = config.launch.content()["environment"]
    kept = {name: around.get(name) for name in ("torch", "python", "device", "git_commit", "git_dirty", "data")}
    count = sum(each.numel() for each in trained.trainer.model.parameters())
    text = [f"# {config['name']}", "", f"{type(unwrap(trained.trainer.model)).__name__}, {count:,} parameters."]
    text += [
        "",
        "## Files",
        "",
        *(f"* {line}" for line in lines),
        "",
        f"Input: {', '.join(shapes)}; the first dimension is the batch.",
    ]
    text += ["", "## Results", "", *(results or ["None were kept: run test.py first."])]
    text += ["", "## Data", "", f"`{json.dumps(config.snapshot()['data_loader'])}`"]
    text += [
        "",
        MADE_OF,
        "",
        f"`{json.dumps(kept)}`",
        "",
        "```json",
        json.dumps(config.snapshot(), indent=2),
        "```",
        "",
    ]
    return "\n".join(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Write a trained model for other programs, and check what was written."
    )
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS), help="which (all)")
    parser.add_argument("--out", type=Path, help="folder (export/EPOCH, beside the checkpoint)")
    args, trained = parsed(parser)
    folder = folder_of(trained, "export/{epoch}", args.out)
    page = folder / "README.md"
    if page.is_file() and MADE_OF not in page.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"{shown(page)} is no card of a model: give another folder by --out")
    lines, call = exported(trained, folder, args.formats)
    with replacing(page, "w") as file:
        file.write(card(trained, lines, call))
    print("\n".join([*lines, f"{'card':<12} {shown(page)}"]))
    if any(line[13:].startswith(f"{REFUSED}:") for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
