"""The recipes of docs/own_tasks.md: each applies as it stands, its command runs, and it does what
the page says."""

import copy
import json
import re
import shlex
import shutil
import subprocess

import pytest
import torchvision.datasets  # noqa: F401

from pages import log_of, run
from projects import ROOT, command, copy_template

PAGE = (ROOT / "docs" / "own_tasks.md").read_text().partition("\n## Recipes")[2]
RECIPES = dict(
    zip(
        ("weights", "letters", "heads", "adapter", "transformers"),
        PAGE.split("\n**")[1:],
        strict=True,
    )
)


def command_of(recipe):
    (words,) = re.findall(r"^python ((?:.*\\\n)*.*)$", RECIPES[recipe], re.M)
    return shlex.split(words.replace("\\\n", " "))


@pytest.fixture(scope="module", params=["weights", "letters", "heads"])
def project(request, tmp_path_factory):
    """A copy of the template with a recipe, and what it is."""
    folder = copy_template(tmp_path_factory.mktemp(request.param) / "project")
    for diff in re.findall(r"```diff\n(.*?)```", RECIPES[request.param], re.S):
        applied(diff, folder)
    return request.param, folder


def applied(diff, folder):
    words = ["git", "apply", "-v", "-"]
    result = subprocess.run(words, cwd=folder, input=diff, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "offset" not in result.stderr, result.stderr


of = {name: pytest.mark.parametrize("project", [name], indirect=True) for name in RECIPES}


def test_its_command_runs_and_it_is_clean(project):
    recipe, folder = project
    assert "check passed" in run(folder, *command_of(recipe))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for words in (["check"], ["format", "--check"]):
        result = command(folder, "-m", "ruff", *words, "--no-cache", ".")
        assert result.returncode == 0, result.stdout


def trained(project, *more):
    """What a run of two epochs says of the first; `more` options."""
    recipe, folder = project
    words = [word for word in command_of(recipe) if word != "--check"]
    name = re.sub(r"\W", "", "".join(more))[-20:] or "plain"
    settings = ("--set", "trainer.epochs=2", "--set", f"name={name}", "--run_id", "RUN")
    run(folder, *words, *settings, *more)
    return name, log_of(folder, None, name=name)


LOSS = """
import json, torch
from train import load_run
from test import valid_loader
import data_loader.data_loaders as module_data

model, config = load_run("saved/models/NAME/RUN")
total = count = 0
with torch.no_grad():
    for x, y in valid_loader(config, module_data):
        BODY
print(float(total / count))
"""


def by_hand(project, name, body):
    code = LOSS.replace("NAME", name).replace("BODY", body.replace("\n", "\n        "))
    return float(run(project[1], "-c", code).splitlines()[-1])


@of["weights"]
def test_classes_weigh_in_the_mean(project):
    name, rows = trained(project)
    best = min(row["val_loss"] for row in rows)
    body = """w = torch.tensor([1.0] * 8 + [3.0] * 2)[y]
total += (w * -model(x)[torch.arange(len(y)), y]).sum()
count += w.sum()"""
    assert by_hand(project, name, body) == pytest.approx(best, rel=1e-5)


@of["letters"]
def test_the_mean_is_over_tokens(project):
    name, rows = trained(project)
    assert rows[1]["loss"] < rows[0]["loss"]
    best = min(row["val_loss"] for row in rows)
    body = """scores = model(x).log_softmax(2)
there = y != -100
total -= scores.gather(2, y.clamp(min=0)[..., None])[..., 0][there].sum()
count += there.sum()"""
    assert by_hand(project, name, body) == pytest.approx(best, rel=1e-5)


@of["letters"]
def test_accumulated_batches_are_one_large_batch(project):
    args = "--set", "data_loader.args.batch_size=8", "--set", "trainer.accumulate=2"
    _, small = trained(project, *args)
    _, large = trained(project, "--set", "data_loader.args.batch_size=16")
    for one, other in zip(small, large, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@of["heads"]
def test_both_heads_learn(project):
    _, rows = trained(project)
    for row in rows:
        assert row["loss"] == pytest.approx(row["digit"] + 0.5 * row["light"], rel=1e-5)
    assert rows[1]["val_light"] < rows[0]["val_light"]
    assert rows[1]["val_digit"] < rows[0]["val_digit"]


def test_an_adapter_is_put_around_a_network(tmp_path):
    pytest.importorskip("peft")
    folder = copy_template(tmp_path / "project")
    (text,) = re.findall(r"```json\n(.*?)```", RECIPES["adapter"], re.S)
    (folder / "adapted.json").write_text(text)
    code = "import torch; from model.model import MnistModel as M\n"
    run(folder, "-c", code + "torch.save(M().state_dict(), 'base.pth')")
    run(folder, "train.py", "-c", "adapted.json", "--run_id", "RUN", "--set", "trainer.epochs=1")
    saved = folder / "saved/models/Adapted/RUN/model_best.pth"
    assert saved.stat().st_size < (folder / "base.pth").stat().st_size
    run(folder, "test.py", "-r", "saved/models/Adapted/RUN")
    others = "{name: value + 1 for name, value in M().state_dict().items()}"
    run(folder, "-c", code + f"torch.save({others}, 'base.pth')")
    told = run(folder, "test.py", "-r", "saved/models/Adapted/RUN", code=4)
    assert "they come from arch.weights: base.pth" in told


def test_a_network_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    folder = copy_template(tmp_path / "project")
    (diff,) = re.findall(r"```diff\n(.*?)```", RECIPES["transformers"], re.S)
    applied(diff, folder)
    sizes = "hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8"
    code = f"""
import torch
from model.model import classifier
model = classifier("bert", num_labels=3, {sizes})
batch = {{"input_ids": torch.ones(2, 5, dtype=int), "labels": torch.tensor([0, 2])}}
given = model(**batch)
assert given.logits.shape == (2, 3) and given.loss.requires_grad
model.save_pretrained("theirs")
again = classifier("bert", pretrained="theirs")
assert torch.equal(again.classifier.weight, model.classifier.weight)
"""
    run(folder, "-c", code)
    found = copy.deepcopy(json.loads((folder / "config.json").read_text()))
    found["arch"] = {"type": "transformers.BertForSequenceClassification", "args": {"config": {}}}
    (folder / "named.json").write_text(json.dumps(found))
    run(folder, "train.py", "-c", "named.json", code=2)  # as the page says
