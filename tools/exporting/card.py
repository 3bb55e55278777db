"""The card of a model: what it is, what it takes and returns, and how it is loaded."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch

from machinery.files import read_json
from machinery.update.runtime import unwrap
from tools.history.records import is_current
from tools.trained import Call, Trained, classes_of, dataset_of, tensors_in

#: A title of the cards, by which they are known.
MADE_OF = "## Made of"
#: Classes that are named.
_CLASSES = 100
_CARD = """\
# {name}

{network}, {parameters:,} parameters.

## Files

{files}

## Input and output

{places}

## Load it

{snippets}
## Results

{results}

## Data

`{data}`

{made_of}

`{environment}`

```json
{config}
```
"""
_SAFETENSORS = """\
import torch
from safetensors.torch import load_file

{make}
model.load_state_dict(load_file("model.safetensors"))
model.eval()
"""
_PROGRAM = """\
import torch

model = torch.export.load("model.pt2").module()
{inputs}
print(model({arguments}))
"""
_ONNX = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
{inputs}
print(session.run(None, {{{arguments}}}))
"""


class Example:
    """What a model is called with, and what it returns for that.

    Args:
        model: unwrapped, on the CPU.
        call: real samples.
        returned: what the model makes of them.
    """

    def __init__(self, model: torch.nn.Module, call: Call, returned: Any) -> None:
        self.model = model
        self.call = call
        self.outputs = tensors_in(returned)
        self.names = input_names(model, call)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that it takes, by name."""
        return dict(zip(self.names, tensors_in(self.call), strict=True))


def input_names(model: torch.nn.Module, call: Call) -> list[str]:
    """The names of the tensors that a model is called with."""
    args, kwargs = call
    found = []
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    for name, value in bound.arguments.items():
        for number, _ in enumerate(tensors_in(value)):
            if isinstance(value, torch.Tensor):
                found.append(name)
            else:
                found.append(f"{name}_{number}")
    return found


def card(trained: Trained, lines: list[str], made: list[str], example: Example) -> str:
    """What the model is, for whoever finds it.

    Args:
        lines: about each file.
        made: the formats that there are.
        example: a batch and what comes out.
    """
    config = trained.config
    model = unwrap(trained.trainer.model)
    written = config.snapshot()
    around = config.launch.content()["environment"]
    kept = ("torch", "python", "device", "git_commit", "git_dirty", "data")
    parameters = sum(each.numel() for each in model.parameters())
    files = [f"* {line}" for line in lines]
    results = _results(trained) or ["None were kept: run test.py first."]
    return _CARD.format(
        name=config["name"],
        network=type(model).__name__,
        parameters=parameters,
        files="\n".join(files),
        places="\n".join(_places(trained, example)),
        snippets=_snippets(trained, made, example),
        results="\n".join(results),
        data=json.dumps(written["data_loader"]),
        made_of=MADE_OF,
        environment=json.dumps({name: around.get(name) for name in kept}),
        config=json.dumps(written, indent=2),
    )


def _places(trained: Trained, example: Example) -> list[str]:
    """What the model takes and returns, a line each."""
    tensors = example.tensors()
    batch = max((len(value) for value in tensors.values() if value.ndim), default=0)
    lines = [f"* in `{name}`: {_shape(value, batch)}" for name, value in tensors.items()]
    dataset = dataset_of(trained.loader)
    scale = [getattr(dataset, name, None) for name in ("mean", "std")]
    if all(isinstance(value, int | float) for value in scale):
        lines.append(f"  (its pixels, 0 to 1, less {scale[0]:.6g}, over {scale[1]:.6g})")
    for output in example.outputs:
        lines.append(f"* out: {_shape(output, batch)}")
    outputs = example.outputs
    if len(outputs) == 1 and outputs[0].ndim == 2 and classes_of(trained.loader):
        names = classes_of(trained.loader, outputs[0].shape[1])[:_CLASSES]
        lines.append(f"* classes: {', '.join(names)}")
    tied = tied_names(example.model)
    if tied:
        lines.append(f"* one weight under two names: {', '.join(tied)}")
    return [*lines, "", "n samples are a batch."]


def tied_names(model: torch.nn.Module) -> list[str]:
    """The names of weights that are the same tensor, each with the first of its names."""
    first: dict[int, str] = {}
    found = []
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor):
            earlier = first.setdefault(id(value), name)
            if earlier != name:
                found.append(f"{name} is {earlier}")
    return found


def _snippets(trained: Trained, made: list[str], example: Example) -> str:
    """Code that loads each file and runs it on zeros."""
    texts = []
    if "safetensors" in made:
        make = _making(trained, example)
        if make:
            texts.append(("The weights, in the project's folder:", _SAFETENSORS.format(make=make)))
    is_plain = all(isinstance(value, torch.Tensor) for value in _values(example.call))
    if "program" in made and is_plain:
        texts.append(("The program, which needs torch alone:", _program_snippet(example)))
    if "onnx" in made and is_plain:
        texts.append(("ONNX:", _onnx_snippet(example)))
    if not made:
        return "No file was written.\n"
    if not texts:
        return "By the project's own code: no lines of it can be told here.\n"
    return "\n".join(f"{title}\n\n```python\n{text}```\n" for title, text in texts)


def _program_snippet(example: Example) -> str:
    """Code that runs the program."""
    arguments = []
    for name in example.names:
        if name in example.call[1]:
            name = f"{name}={name}"
        arguments.append(name)
    inputs = [_zeros(name, value) for name, value in example.tensors().items()]
    return _PROGRAM.format(inputs="\n".join(inputs), arguments=", ".join(arguments))


def _onnx_snippet(example: Example) -> str:
    """Code that runs the ONNX file."""
    arguments = ", ".join(f'"{name}": {name}' for name in example.names)
    inputs = [_zeros_of_numpy(name, value) for name, value in example.tensors().items()]
    return _ONNX.format(inputs="\n".join(inputs), arguments=arguments)


def _values(call: Call) -> list[Any]:
    args, kwargs = call
    return [*args, *kwargs.values()]


def _making(trained: Trained, example: Example) -> str:
    """The lines that make the network; "" where they cannot be told."""
    arch = trained.config["arch"]
    args = arch.get("args") or {}
    others = set(arch) - {"type", "args", "weights", "freeze", "skip", "starting_args"}
    if others or not isinstance(args, Mapping) or any(isinstance(v, dict) for v in args.values()):
        return ""
    module, _, name = str(arch["type"]).rpartition(".")
    given = ", ".join(f"{key}={value!r}" for key, value in args.items())
    return f"from {module or 'model.model'} import {name}\n\nmodel = {name}({given})"


def _shape(tensor: torch.Tensor, batch: int) -> str:
    """The type and the sizes of a tensor, that of the batch as n."""
    sizes = [str(size) for size in tensor.shape]
    if sizes and tensor.shape[0] == batch:
        sizes[0] = "n"
    return f"{_type(tensor)} [{', '.join(sizes)}]"


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _sizes(tensor: torch.Tensor) -> str:
    """The shape of four samples."""
    return ", ".join(str(size) for size in (4, *tensor.shape[1:]))


def _zeros(name: str, tensor: torch.Tensor) -> str:
    return f"{name} = torch.zeros({_sizes(tensor)}, dtype=torch.{_type(tensor)})"


def _zeros_of_numpy(name: str, tensor: torch.Tensor) -> str:
    sizes = _sizes(tensor)
    if tensor.ndim < 2:
        sizes += ","
    return f"{name} = np.zeros(({sizes}), dtype=np.{_type(tensor)})"


def _results(trained: Trained) -> list[str]:
    """What test.py has kept about this checkpoint, a line for each."""
    checkpoint = trained.config.resume
    assert checkpoint is not None
    precision = trained.config.settings.trainer.precision
    how = ""
    if precision != "fp32":
        how = f", in {precision}, which the files are not"
    lines = []
    try:
        for result in read_json(checkpoint.parent / "test.json")["results"]:
            if result["checkpoint"] != checkpoint.name:
                continue
            if not is_current(checkpoint.parent, result):
                continue
            metrics = result["metrics"].items()
            numbers = ", ".join(f"{name} {value:.6g}" for name, value in metrics)
            samples = f"{result['samples']:,} samples{how}"
            lines.append(f"* {result['split']} ({samples}): {numbers}")
    except (OSError, ValueError, KeyError, TypeError):  # none, or somebody else's file
        pass
    return lines
