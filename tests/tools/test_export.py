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


def test_an_exported_model_is_the_model(trained, monkeypatch):
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
        and "* in `x`: float32 [n, 1, 28, 28]\n" in card
        and "* out: float32 [n, 10]\n" in card
    )
    # What it says of loading is so.
    snippets = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(snippets) == 3
    for snippet in snippets:
        monkeypatch.chdir(out)
        found = {}
        exec(snippet, found)
        if "load_file" in snippet:
            state = found["model"].state_dict()
            assert all(torch.equal(state[name], weights[name]) for name in weights)


class OfDicts(torch.nn.Linear):
    """Takes a dict, and gives one."""

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, batch):
        return {"a": super().forward(batch["x"]), "b": batch["z"] * 2}


def test_a_model_of_dicts_is_exported_in_each_format(tmp_path):
    pytest.importorskip("safetensors")
    pytest.importorskip("onnxruntime")
    from tools import export

    call = (({"x": torch.randn(8, 3), "z": torch.randn(8)},), {})
    for write, file in export.FORMATS.values():
        with export.quiet():
            worst, least = export._compared(write, OfDicts(), tmp_path / file, call)
        assert worst < 1e-5 and least == 1


def test_a_card_that_cannot_tell_how_to_load_a_file_does_not_say_that_there_is_none():
    from types import SimpleNamespace

    from tools.exporting.card import Example, _snippets

    model = OfDicts()
    call = (({"x": torch.randn(8, 3), "z": torch.randn(8)},), {})
    trained = SimpleNamespace(config={"arch": {"type": "model.of.Dicts", "adapter": {}}})
    example = Example(model, call, model(*call[0]))
    told = _snippets(trained, ["safetensors", "program"], example)
    assert "No file" not in told
    assert _snippets(trained, [], example) == "No file was written.\n"


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


class Tied(torch.nn.Module):
    """The same weight at both ends."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.out = torch.nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.embed(ids).mean(1))


class Eigen(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x @ x.transpose(-1, -2)).real


class Fixed(torch.nn.Module):
    """Has the number of samples in it."""

    def forward(self, x):
        return x.reshape(4, -1)


def test_weights_that_are_tied_go_under_both_names(tmp_path):
    pytest.importorskip("safetensors")
    pytest.importorskip("onnxruntime")
    from safetensors.torch import load_file

    from tools import export
    from tools.exporting.card import Example, tied_names

    model = Tied().eval()
    call = ((torch.randint(20, (5, 3)),), {})
    outcomes = [export._outcome(name, model, tmp_path, call) for name in export.FORMATS]
    assert not any(outcome.refused for outcome in outcomes), outcomes
    again = Tied()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again.out.weight, model.embed.weight)
    assert tied_names(model) == ["out.weight is embed.weight"]
    example = Example(model, call, model(*call[0]))
    assert example.names == ["ids"] and [*example.outputs[0].shape] == [5, 20]


@pytest.mark.parametrize(
    "model, name, says",
    [
        (Untraceable, "program", "depends on values of the data, as by an if or .item()"),
        (Untraceable, "onnx", "depends on values of the data, as by an if or .item()"),
        (Eigen, "onnx", "ONNX has nothing for the operation linalg_eig"),
        (Fixed, "program", "has the number of samples of the example in it"),
    ],
)
def test_the_reason_is_a_plain_line(tmp_path, model, name, says):
    pytest.importorskip("onnxruntime")
    from tools import export

    call = ((torch.randn(8, 3, 3),), {})
    outcome = export._outcome(name, model(), tmp_path, call)
    assert outcome.refused and outcome.text.startswith("refused: ") and says in outcome.text
    assert "\x1b" not in outcome.text and "\n" not in outcome.text and len(outcome.text) < 400
    if model is Untraceable:  # with the line of the model
        assert "tests/tools/test_export.py:" in outcome.text and "x.sum().item()" in outcome.text


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
