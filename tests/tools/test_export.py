"""tools/export.py: an exported model is the model, or is refused with the reason."""

import os
import re
import sys

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

import forked
from machinery.checkpoints import file as checkpoint
from projects import ROOT
from scripts import run


def test_an_exported_model_is_the_model(trained):
    pytest.importorskip("safetensors")
    pytest.importorskip("onnxruntime")
    out = trained / "export"
    printed = run(
        trained, "tools/export.py", "-r", trained / "models" / "Digits_LeNet" / "a", "--out", out
    )
    assert {path.name for path in out.iterdir()} >= {
        "README.md",
        "model.safetensors",
        "model.pt2",
        "model.onnx",
    }
    off = [float(value) for value in re.findall(r"off by (\S+) at most", printed)]
    assert len(off) == 3 and all(value < 1e-5 for value in off)
    weights = checkpoint.load(trained / "models" / "Digits_LeNet" / "a" / "model_best.pth")[
        "state_dict"
    ]
    from safetensors.torch import load_file

    kept = load_file(out / "model.safetensors")
    assert kept.keys() == weights.keys() and all(
        torch.equal(kept[name], weights[name]) for name in weights
    )
    card = (out / "README.md").read_text()
    assert (
        "accuracy" in card
        and '"seed"' not in card.split("```json")[0]
        and "float32 [64, 1, 28, 28]" in card
    )


class Stateful(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


class Spread(torch.nn.Linear):
    """Gives NaN for a sample alone."""

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return super().forward(x) / (x.std(0).mean() + 1)


class Untraceable(torch.nn.Module):
    """Does what no graph can hold."""

    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x + len(str(float(x.sum())))


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path):
    pytest.importorskip("onnxruntime")
    from tools import export

    call = ((torch.ones(8, 3),), {})
    for name in ("program", "onnx"):
        write, file = export.FORMATS[name]
        with pytest.raises(RuntimeError), export.quiet():
            export._compared(write, Untraceable(), tmp_path / file, call)
    with pytest.raises(export.Refused, match="_extra_state is none"):
        export.safetensors(Stateful(), tmp_path / "model.safetensors", call, None)
    with export.quiet():
        worst, least = export._compared(
            export.safetensors, Spread(), tmp_path / "model.safetensors", call
        )
    assert worst == 0 and least == 3
    model = torch.nn.Linear(3, 2)
    for n in (1, 2, 9):  # whatever the loader's batches are
        for name in ("program", "onnx"):
            write, file = export.FORMATS[name]
            with export.quiet():
                worst, least = export._compared(
                    write, model, tmp_path / file, ((torch.randn(n, 3),), {})
                )
            assert worst < 1e-6 and least == 1
    with pytest.raises(export.Refused, match="returns"):
        export.off(model, lambda each: model(each[0][0])[:, :1], call)
    assert export.off(model, lambda each: model(each[0][0]) + 0.1, call) > 0.05


def _export(given):
    os.chdir(ROOT)
    import tools.export

    tools.export.off = lambda *_: 0.5
    sys.argv = ["tools/export.py", *map(str, given)]
    tools.export.main()


def test_what_computes_something_else_is_refused_and_takes_no_place(trained, tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "model.safetensors").write_text("an earlier one")
    given = [
        "-r",
        trained / "models" / "Digits_LeNet" / "a",
        "--formats",
        "safetensors",
        "--out",
        tmp_path,
    ]
    output = tmp_path / "printed.txt"
    assert forked.finish(forked.start(_export, given, output=output)) == 1
    assert "refused: its results are off by 5.0e-01" in output.read_text()
    assert "is of an earlier export" in output.read_text()
    assert (tmp_path / "model.safetensors").read_text() == "an earlier one"
    (tmp_path / "README.md").write_text("mine")
    assert "is no card" in run(tmp_path, "tools/export.py", *given, code=2)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_results_that_are_not_finite_are_not_taken_for_equal():
    from tools.export import off

    call = ((torch.ones(3),), {})
    infinite = torch.nn.Identity()
    assert off(infinite, lambda _: torch.ones(3), call) == 0
    assert off(infinite, lambda _: torch.full((3,), torch.inf), call) == float("inf")
    infinite.forward = lambda x: x / 0
    assert off(infinite, lambda _: torch.full((3,), torch.inf), call) == float("inf")
