"""What the pages say is so: their commands run, the table is the schema's, the tree is the
project's."""

import copy
import re
import shutil
import types

import pytest
import torch

import tiny
from base import BaseDataLoader
from machinery.config.optimization import init_optimizer, init_scheduler
from machinery.config.schema import Config
from machinery.config.settings import TrainerSettings
from machinery.order.seeding import uniform_rows
from pages import run
from parse_config import ConfigParser
from projects import ROOT, copy_template
from tools.write_schema import outputs

README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
SHORT = ["--set", "trainer.epochs=1", "--set", "trainer.len_epoch=3"]


def test_generated_parts_are_current():
    for path, content in outputs().items():
        assert path.read_text() == content, "run python tools/write_schema.py"


def test_every_key_is_explained():
    for name, field in [*Config.model_fields.items(), *TrainerSettings.model_fields.items()]:
        assert field.description and f"{name}`" in PAGES["config"]


def test_the_first_commands_are_what_the_check_does():
    first, second = re.findall(r"```\n(.*)\n(.*)\n```", README)[0]
    assert first.endswith("pip install -r requirements.txt && python train.py -c config.json")
    assert second.endswith("pip install -r requirements-dev.txt && pytest")
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("pytest -m 'not soak'")


def test_the_tree_is_the_projects():
    tree = PAGES["how_it_works"].split("## The house")[1].split("```\n\n```")[1].split("```")[0]
    shown = set(re.findall(r"[\w/]+\.(?:py|json)|^\w+/", tree, re.M))
    for name in shown - {"saved/"}:
        assert list(ROOT.rglob(name.rstrip("/"))), name
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert path.name in tree, path


def test_its_dataset_is_one(monkeypatch):
    (code,) = re.findall(r"```python\n(class Vectors.*?)```", PAGES["trainers"], re.S)
    names = {"copy": copy, "uniform_rows": uniform_rows}
    exec(code, names)
    data = names["Vectors"](torch.arange(60.0).view(20, 3), torch.arange(20))
    loader = BaseDataLoader(data, 8, True, 0.3, 0)
    batches = [*loader, *loader.split_validation()]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(y.tolist()) == list(range(20))
    moved = (x - data.data["x"][y]).abs()
    assert 0 < float(moved[:14].max()) < 0.11 and not moved[14:].any()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_template(tmp_path_factory.mktemp("readme") / "project")
    shutil.copy(folder / "config.json", folder / "new.json")
    run(folder, "train.py", "-c", "config.json", "--run_id", "RUN", "--set", "name=NAME", *SHORT)
    kept = folder / "saved" / "models" / "NAME" / "RUN"
    shutil.copy(kept / "model_best.pth", folder / "PATH")
    return folder


COMMANDS = re.findall(
    r"^python ((?:train|test)\.py .*?)(?: +#.*)?$",
    README.split("## Commands")[1].split("\n## ")[0] + PAGES["commands"],
    re.M,
)


@pytest.mark.parametrize("line", dict.fromkeys(COMMANDS))
def test_its_commands_run(project, line):
    folder = project / "saved" / "models" / "NAME" / "RUN"
    if "epoch5" in line:
        shutil.copy(folder / "checkpoint-epoch1.pth", folder / "checkpoint-epoch5.pth")
    short = SHORT if line.startswith("train.py -c") else []
    if "-d 0,1" in line:  # tests/processes/test_launch.py trains by that of this page
        assert f"python {line} " in PAGES["commands"]
    else:
        run(project, *line.split(), *short)


def test_a_scheduler_made_of_schedulers_resumes_exactly(tmp_path, monkeypatch):
    """The page's function, in a file of the project."""
    code = re.search(r"```python\n(def warmup_steps.*?)```", PAGES["config"], re.S)
    module = types.ModuleType("model.optim_of_the_test")
    names = ("StepLR", "LinearLR", "SequentialLR")
    vars(module).update({name: getattr(torch.optim.lr_scheduler, name) for name in names})
    module.Optimizer = torch.optim.Optimizer
    exec(code[1], vars(module))
    monkeypatch.setattr(tiny, "init_scheduler", lambda *args: init_scheduler(*args, module))
    scheduler = {"type": "warmup_steps", "args": {"warmup": 1, "step": 1}}
    config = tiny.settings(tmp_path, lr_scheduler=scheduler, trainer__epochs=3)
    unbroken = tiny.train(config)
    resumed = tiny.train(config, resume=unbroken.checkpoint_dir / "checkpoint-epoch1.pth")
    assert tiny.digest(unbroken.model) == tiny.digest(resumed.model)
    assert (
        isinstance(resumed.lr_scheduler, torch.optim.lr_scheduler.SequentialLR)
        and resumed.lr < 0.01
    )


def test_its_groups_by_name(tmp_path):
    code = re.search(r"```python\n(def faster_head.*?)```", PAGES["config"], re.S)
    module = types.ModuleType("model.optim_of_the_test")
    vars(module).update(nn=torch.nn, AdamW=torch.optim.AdamW)
    exec(code[1], vars(module))
    optimizer = {"type": "faster_head", "args": {"lr": 1e-4, "head_lr": 1e-3}}
    config = ConfigParser(tiny.settings(tmp_path, optimizer=optimizer))
    made = init_optimizer(config, config.init_obj("arch", tiny), module)
    assert [(group["lr"], len(group["params"])) for group in made.param_groups] == [
        (1e-4, 4),
        (1e-3, 2),
    ]
    assert made.param_groups[1]["param_names"] == ["fc2.weight", "fc2.bias"]
