"""What the report on a classic project says is what happens: each finding is also met by running
the template."""

import argparse
import ast
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types

import pytest
import torch

import tiny
from classic_checkpoints import write_classic
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError, ConfigError
from machinery.update.watching import OLDER_NAMES
from parse_config import ConfigParser
from projects import ROOT, SHARED, command, copy_template, quick
from tools import migrate
from tools.convert_checkpoint import convert, read_inert
from tools.migration import classic, project
from tools.migration.configs import in_configs
from tools.migration.findings import in_code
from tools.migration.project import Project
from tools.migration.replaced import OLDER
from tools.migration.trainers import TAKEN

CLASSIC = ROOT / "tests" / "classic_project"
CONFIG = json.loads((CLASSIC / "config.json").read_text())
TRAINER = """
from base import BaseTrainer
from utils import MetricTracker, inf_loop


class Trainer(BaseTrainer):
    def __init__(self, model, criterion, metric_ftns, optimizer, config, data_loader):
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        self.data_loader = data_loader
        self.len_epoch = len(data_loader)
        self.tracker = MetricTracker("loss", writer=self.writer)
        # the_setup

    def _train_epoch(self, epoch):
        # the_epoch
        self.model.train()
        self.tracker.reset()
        for batch_idx, (data, target) in enumerate(self.data_loader):
            # the_batch
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(data), target)
            loss.backward()
            self.optimizer.step()
            self.tracker.update("loss", loss.item())
            if batch_idx + 1 == self.len_epoch:
                break
        return self.tracker.result()

    # the_class
"""


def written(folder, **files):
    """A project like the fixture's, with these files in place of its own; slashes are two
    underscores."""
    shutil.copytree(CLASSIC, folder, dirs_exist_ok=True)
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + (".json" if isinstance(text, dict) else ".py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(text, indent=4) if isinstance(text, dict) else text)
    return folder


def found(folder, rank=None):
    """The findings as "place: text"."""
    looked_at = Project(folder)
    findings = [*in_configs(looked_at), *in_code(looked_at), *migrate._checkpoints(looked_at)]
    return [
        f"{finding.place}: {finding.text}" for finding in findings if rank in (None, finding.rank)
    ]


def source(**parts):
    """The trainer with code at places that are marked in it."""
    text = TRAINER
    for place, code in parts.items():
        mark = next(line for line in TRAINER.splitlines() if line.strip() == f"# {place}")
        space = mark[: len(mark) - len(mark.lstrip())]
        text = text.replace(mark, "\n".join(space + line for line in code.splitlines()))
    return text


def line_of(text, code):
    return next(number for number, line in enumerate(text.splitlines(), 1) if code in line)


def trainer_of(text, folder, resume=None, **changes):
    """The trainer of a source, made by this template with the tiny project's parts."""
    module = types.ModuleType("own_trainer")
    exec(text, vars(module))
    settings = tiny.settings(
        folder, **{"trainer__monitor": "min loss", "trainer__epochs": 2, **changes}
    )
    config = ConfigParser(settings, resume=resume)
    model = config.init_obj("arch", tiny)
    optimizer = config.init_obj("optimizer", torch.optim, model.parameters())
    loader = config.init_obj("data_loader", tiny)
    return module.Trainer(model, tiny.cross_entropy, [], optimizer, config, loader)


def test_the_fixture_meets_nothing_that_is_refused(tmp_path):
    trainer_of(TRAINER, tmp_path).train()
    folder = written(tmp_path / "project", trainer__trainer=TRAINER)
    assert found(folder, 0) == found(CLASSIC, 0) == []  # test_classic_project.py runs the latter
    (own,) = found(folder, 1)
    assert own.startswith(
        f"trainer/trainer.py:{line_of(TRAINER, 'def _train_epoch')}: Trainer has a loop of its own"
    )


# The place, the code, the words of the report, and those of the error.
REFUSED = [
    *(
        (
            "the_class",
            f"def {name}(self, *args):\n    pass",
            f"Trainer.{name} would never be called",
            "never be called",
        )
        for name in ("_save_checkpoint", "_resume_checkpoint")
    ),
    *(
        (
            "the_class",
            f"def {name}(self):\n    pass",
            f"Trainer.{name} takes the place of a method",
            "argument",
        )
        for name in ("_report", "_finish", "_run_epoch", "_save", "_save_epoch")
    ),
    *(
        (
            "the_setup",
            f"self.{name} = None",
            f"self.{name} is the BaseTrainer's own here",
            "None|obj",
        )
        for name in TAKEN
    ),
    (
        "the_setup",
        "self.period = self.save_period",
        "the BaseTrainer has no save_period any more",
        "save_period",
    ),
    (
        "the_epoch",
        "print(self.mnt_metric)",
        "the BaseTrainer has no mnt_metric any more",
        "mnt_metric",
    ),
    (
        "the_epoch",
        "print(self.early_stop)",
        "the BaseTrainer has no early_stop any more",
        "early_stop",
    ),
    (
        "the_setup",
        "self._prepare_device(1)",
        "the BaseTrainer has no _prepare_device any more",
        "_prepare_device",
    ),
    ("the_setup", "self.mnt_best = 0", "self.mnt_best can be read, but not set", "mnt_best|setter"),
    (
        "the_setup",
        "self.mnt_mode = 'off'",
        "self.mnt_mode can be read, but not set",
        "mnt_mode|setter",
    ),
    ("the_setup", "self.monitor.split()", "self.monitor is an object here", "split"),
    (
        "the_setup",
        "self.writer = SummaryWriter(str(config.save_dir))",
        "self.writer has to be the",
        "continue_from",
    ),
    (
        "the_setup",
        "self.config.initialize('arch', None)",
        "the config has no initialize: write init_obj",
        "initialize",
    ),
    ("the_setup", "self.config.resume = None", "config.resume cannot be set", "resume|setter"),
]


@pytest.mark.parametrize(
    ("place", "code", "told", "met"), REFUSED, ids=[f"{row[1].split('(')[0]}" for row in REFUSED]
)
def test_what_is_refused_or_fails(tmp_path, place, code, told, met):
    text = f"from torch.utils.tensorboard import SummaryWriter\n{source(**{place: code})}"
    line = line_of(text, code.splitlines()[0])
    (told_of,) = found(written(tmp_path / "project", trainer__trainer=text), 0)
    assert told_of.startswith(f"trainer/trainer.py:{line}: {told}")
    with pytest.raises((ConfigError, TypeError, AttributeError), match=met):
        trainer_of(text, tmp_path).train()


def test_an_older_constructor_is_told(tmp_path):
    for arguments in (
        "model, criterion, metric_ftns, optimizer, config, None",
        "model, criterion, metric_ftns, config",
    ):
        text = TRAINER.replace(
            "super().__init__(model, criterion, metric_ftns, optimizer, config)",
            f"super().__init__({arguments})",
        )
        (told,) = found(written(tmp_path / "project", trainer__trainer=text), 0)
        assert told.startswith(
            f"trainer/trainer.py:{line_of(text, 'super()')}: "
            f"BaseTrainer takes model, criterion, metric_ftns"
        )
        with pytest.raises(TypeError, match="positional argument"):
            trainer_of(text, tmp_path)


def test_what_an_own_class_defines_is_not_missed(tmp_path):
    text = source(
        the_setup="self.save_period = 2\nself.early_stop = 3",
        the_epoch="print(self.save_period, self.early_stop)",
    )
    trainer_of(text, tmp_path).train()
    below = (
        "from trainer.trainer import Trainer\n\n\nclass "
        "Below(Trainer):\n    def f(self):\n        self.save_period\n"
    )
    folder = written(tmp_path / "project", trainer__trainer=text, trainer__below=below)
    assert found(folder, 0) == []
    # An override is also told in a class that derives from one of the project's own.
    (folder / "trainer" / "below.py").write_text(
        below + "\n    def _save_checkpoint(self, epoch):\n        pass\n"
    )
    assert [told.split(" would")[0] for told in found(folder, 0)] == [
        "trainer/below.py:8: Below._save_checkpoint"
    ]


def test_a_shared_attribute_has_another_value(tmp_path):
    text = source(the_setup="self.step, self.lr = 0, 0.5", the_batch="self.step += 1")
    told = found(written(tmp_path / "project", trainer__trainer=text), 1)
    assert sum("self.step is the BaseTrainer's own here, too" in line for line in told) == 2
    assert any(
        "self.lr is the BaseTrainer's own here, too (it is the table's column lr)" in line
        for line in told
    )
    trainer = trainer_of(text, tmp_path)
    trainer.train()
    assert trainer.step == 0 and tiny.rows(trainer)[1][-1] == "0.5"


def test_settings_that_an_own_loop_does_not_read(tmp_path):
    plain = trainer_of(TRAINER, tmp_path / "a")
    changes = {
        "accumulate": 1000,
        "clip_grad_norm": 1e-9,
        "precision": "bf16",
        "compile": True,
        "save_step": 1,
    }
    other = trainer_of(
        TRAINER, tmp_path / "b", **{f"trainer__{name}": value for name, value in changes.items()}
    )
    plain.train()
    other.train()
    assert tiny.digest(plain.model) == tiny.digest(other.model) and not list(
        other.checkpoint_dir.glob("*step*")
    )


@pytest.mark.parametrize("endless", [False, True])
def test_an_endless_loader_does_not_resume_exactly(tmp_path, endless):
    text = (
        source(the_setup="self.data_loader = inf_loop(data_loader)\nself.len_epoch = 3")
        if endless
        else TRAINER
    )
    told = [
        line
        for line in found(written(tmp_path / "project", trainer__trainer=text), 1)
        if "with inf_loop" in line
    ]
    assert len(told) == endless
    whole = trainer_of(text, tmp_path)
    whole.train()
    again = trainer_of(text, tmp_path, resume=whole.checkpoint_dir / "checkpoint-epoch1.pth")
    again.train()
    assert (tiny.digest(whole.model) != tiny.digest(again.model)) == endless


def test_a_train_of_its_own_restores_nothing(tmp_path):
    own = "def train(self):\n    for epoch in range(self.start_epoch, self.epochs + 1):\n"
    text = source(
        the_class=f"{own}        self._train_epoch(epoch)\n        self._save_checkpoint(epoch)"
    )
    told = found(written(tmp_path / "project", trainer__trainer=text))
    assert (
        f"trainer/trainer.py:{line_of(text, 'def train(')}: a train of its own restores nothing"
        in " ".join(told)
    )
    trainer = trainer_of(text, tmp_path)
    trainer.train()
    trainer.config.run.close()  # as the end of the process does
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    again = trainer_of(text, tmp_path, resume=path)
    again.train()
    again.config.run.close()
    assert again.start_epoch == 1
    as_told = trainer_of(
        text.replace("def train(self):", "def train(self):\n        self.restore()"),
        tmp_path,
        resume=path,
    )
    as_told.train()
    assert as_told.start_epoch == 2


LOADER = """
from base import BaseDataLoader
from torch.utils.data import DistributedSampler


class Loader(BaseDataLoader):
    def __init__(self, data):
        self.mine = DistributedSampler(data, num_replicas=2, rank=0)
        super().__init__(data, 4, False, 0.0, 0, sampler=self.mine)
"""


def test_loaders_that_are_refused(tmp_path):
    module = types.ModuleType("own_loader")
    exec(LOADER, vars(module))
    (told,) = found(written(tmp_path / "a", data_loader__more=LOADER), 0)
    assert told.startswith(
        f"data_loader/more.py:{line_of(LOADER, 'sampler=')}: a DistributedSampler is refused"
    )
    with pytest.raises(ConfigError, match="leave the DistributedSampler out"):
        module.Loader(tiny.Points(10))
    clash = (
        LOADER.replace(", sampler=self.mine", "") + "\n    def batches(self):\n        return 5\n"
    )
    exec(clash, vars(module))
    (told,) = found(written(tmp_path / "b", data_loader__more=clash), 0)
    assert "Loader.batches takes the place of a method that batches need" in told
    with pytest.raises(TypeError):
        next(iter(module.Loader(tiny.Points(10))))


UTIL = """
import pandas as pd


def helper():
    return 5


def prepare_device(n_gpu_use):
    import torch

    return torch.device("cpu"), []


def inf_loop(data_loader):
    while True:
        yield from data_loader


class MetricTracker:
    def __init__(self, *keys, writer=None):
        self._data = pd.DataFrame(index=keys, columns=["total", "counts", "average"])
        self.reset()

    def reset(self):
        for col in self._data.columns:
            self._data[col].values[:] = 0
"""


def test_imports_of_what_is_no_more(tmp_path, monkeypatch):
    lines = [
        "from utils import helper",
        "from utils import setup_logging",
        "from utils.util import OrderedDict",
        "from logger import Logger",
        "from logger.visualization import WriterTensorboardX",
        "from base.base_trainer import inf",
        "from parse_config import _update_config",
        "from collections import Mapping",
        "from torch._six import string_classes",
        "from torchvision.models.utils import load_state_dict_from_url",
    ]
    for line in lines:
        with pytest.raises(ImportError):
            exec(line, {})
    there = (
        "from base import *\nfrom utils import ensure_dir, "
        "read_json, write_json, inf_loop, prepare_device\n"
    )
    there += (
        "from logger import TensorboardWriter, setup_logging, "
        "visualization\nimport numpy as np\nimport utils.util\n"
    )
    there += "try:\n    from utils import helper\nexcept ImportError:\n    pass\n"
    exec(there, {})
    told = found(written(tmp_path / "a", model__more="\n".join(lines), model__there=there), 0)
    assert [text.split(": ")[0] for text in told] == [
        f"model/more.py:{n}" for n in range(1, len(lines) + 1)
    ]
    # What stands in a util.py of the project's own, or in a file that is replaced, is told with its
    # place.
    monkeypatch.setattr(sys.modules["utils.util"], "helper", 5, raising=False)
    exec(lines[0], {})
    exec("from utils.util import helper", {})
    base = "class BaseTrainer:\n    def train(self):\n        pass\n\n\nclass BaseGAN:\n    pass\n"
    more = (
        "from utils import helper, read_json\nfrom utils.util "
        "import helper\nfrom base.base_trainer import BaseGAN\n"
    )
    told = found(
        written(tmp_path / "b", utils__util=UTIL, base__base_trainer=base, model__more=more), 0
    )
    assert told[:2] == [
        "model/more.py:1: utils has no read_json here",
        "model/more.py:3: base.base_trainer has no BaseGAN here: "
        "it is in base/base_trainer.py, which is replaced; move"
        " it to a file of your own",
    ]
    text = migrate.report(tmp_path / "b")
    assert (
        "base/base_trainer.py: BaseGAN; lost when" in text
        and "utils/util.py: helper; yours may stay" in text
    )
    assert "utils/ (but for utils/util.py)" in text


def test_a_star_brings_what_it_brought(tmp_path):
    names = {}
    exec("from utils import *", names)
    assert "MetricTracker" in names
    assert found(written(tmp_path, model__more="from utils import *\n"), 0) == []


def test_names_that_libraries_have_dropped(tmp_path):
    import collections

    import numpy as np

    lines = ["np.float", "collections.Mapping"]
    for line in lines:
        with pytest.raises(AttributeError):
            eval(line, {"np": np, "collections": collections})
    text = (
        "import collections\nimport numpy as "
        "np\nprint(np.float32, np.int64, collections.OrderedDict)\n" + "\n".join(lines)
    )
    told = found(written(tmp_path, model__more=text), 0)
    assert told == [
        "model/more.py:4: np.float is gone from NumPy",
        "model/more.py:5: collections.Mapping is collections.abc.Mapping since Python 3.10",
    ]


def test_an_older_command_line(tmp_path):
    text = "import argparse\nfrom parse_config import ConfigParser\n"
    text += "args = argparse.ArgumentParser()\nconfig = ConfigParser(args)\n"
    (told,) = found(written(tmp_path, train=text), 0)
    assert told.startswith("train.py:4: ConfigParser takes a config, no parser")
    with pytest.raises(AttributeError):
        exec(text, {})


CONFIGS = [
    ({"trainer": {**CONFIG["trainer"], "epochs": "3"}}, "trainer.epochs: expected a valid integer"),
    ({"name": 5}, "name: expected a valid string"),
    ({"trainer": {**CONFIG["trainer"], "monitor": "min"}}, "trainer.monitor: expected"),
]
#: What means something else here, and keys that look like slips.
MEANINGS = [
    ({"trainer": {"epoch": 3}}, "trainer.epoch: only your code reads it, and epochs is not there"),
    ({"n_gpu": "1"}, 'n_gpu: "1" asks for 1; -d says which'),
    ({"name": "a/b"}, 'name: "a/b" would be several folders: the runs are in a-b'),
    ({"metrics": None}, "metrics: none of the values that this template knows: only"),
    ({"trainer": {**CONFIG["trainer"], "early_stop": -1}}, "trainer.early_stop: -1 is no patience"),
    ({"optimzer": {}, "optimizer": None}, "optimzer: only your code reads it, and optimizer is"),
]


def of_train(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", str(folder / "config.json")])
    return ConfigParser.from_args(argparse.ArgumentParser())


@pytest.mark.parametrize(("changes", "told"), CONFIGS, ids=[told[:20] for _, told in CONFIGS])
def test_configs_are_judged_as_train_py_does(tmp_path, monkeypatch, changes, told):
    folder = written(tmp_path, config={**CONFIG, **changes})
    with pytest.raises(ConfigError) as error:
        of_train(folder, monkeypatch)
    lines = str(error.value).replace(f"{folder}/", "").split("\n  ")
    assert found(folder, 0) == lines and told in str(error.value)


@pytest.mark.parametrize(("changes", "told"), MEANINGS, ids=[told[:20] for _, told in MEANINGS])
def test_what_means_something_else_in_a_config(tmp_path, monkeypatch, capfd, changes, told):
    values = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    values |= {key: value for key, value in changes.items() if key == "metrics"}
    folder = written(tmp_path, config=values)
    (line,) = (line for line in found(folder, 1) if line.startswith("config.json"))
    assert told in line and found(folder, 0) == []
    of_train(folder, monkeypatch)
    lines = capfd.readouterr().out.replace(f"{folder}/", "")
    assert line in lines or "is a key of your own: only your code reads it" in lines


def test_a_key_called_base_is_another_config(tmp_path):
    folder = written(tmp_path, config={**CONFIG, "base": "resnet"})
    (told,) = found(folder, 0)
    assert "base: here this key names a config to inherit from" in told and told.startswith(
        "config.json:"
    )
    with pytest.raises(ConfigError, match="resnet cannot be read"):
        ConfigParser(folder / "config.json")


MODEL = """
from torch import nn
from torch.utils.data import Dataset


class Net(nn.Module):
    def __init__(self, weights: str = None, width: int = 4, depth: int | None = None):
        super().__init__()
        self.fc = nn.Linear(2, width)


class Points(Dataset):
    def __init__(self, n):
        self.n = n
"""


COMPONENTS = [
    (
        "arch",
        "model.model",
        {"type": "Nets"},
        "config.json:4:5: arch: 'Nets' is not in model/model.py",
    ),
    (
        "arch",
        "model.model",
        {"type": "Net", "args": {"weights": None}},
        "arch.args.weights: Net takes weights as str",
    ),
    (
        "arch",
        "model.model",
        {"type": "Net", "args": {"width": 1.5}},
        "arch.args.width: Net takes width as int",
    ),
    ("arch", "model.model", {"type": "Net", "args": {"width": 3, "depth": None}}, None),
    ("arch", "model.model", {"type": "nn"}, None),  # a name all the same
    (
        "data_loader",
        "model.model",
        {"type": "Points", "args": {"n": 3}},
        "Points is refused, because it is no",
    ),
    (
        "lr_scheduler",
        "torch.optim.lr_scheduler",
        {"type": "StepLR", "args": {"step_size": 2, "verbose": True}},
        "lr_scheduler.args.verbose: StepLR has no argument 'verbose'",
    ),
    (
        "optimizer",
        "torch.optim",
        {"type": "Adma", "args": {}},
        "torch.optim has no optimizer 'Adma': did you mean",
    ),
    ("optimizer_D", "torch.optim", {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}}, None),
]


@pytest.mark.parametrize(("section", "place", "component", "told"), COMPONENTS)
def test_components_are_judged_as_init_obj_does(tmp_path, section, place, component, told):
    train = "import torch\nimport model.model\nfrom parse_config import ConfigParser\n"
    train += f"ConfigParser('x').init_obj('{section}', {place}, *[])\n"
    given = [] if place == "model.model" else [[torch.nn.Parameter(torch.ones(1))]]
    if section == "lr_scheduler":
        given = [torch.optim.SGD(*given, lr=0.1)]
    train = train.replace(", *[]", ", 1" * len(given))
    config = {**CONFIG, section: component, "loss": None, "metrics": []}
    folder = written(tmp_path, config=config, model__model=MODEL, train=train)
    shutil.rmtree(folder / "trainer")
    module = types.ModuleType("model.model")
    exec(MODEL, vars(module))
    module = {"torch.optim": torch.optim, "torch.optim.lr_scheduler": torch.optim.lr_scheduler}.get(
        place, module
    )
    lines = found(folder, 0)
    if told is None:
        assert lines == []
        if component["type"] != "nn":
            ConfigParser(config).init_obj(section, module, *given)
    else:
        assert len(lines) == 1 and told in lines[0] and lines[0].startswith("config.json:")
        with pytest.raises(ConfigError):
            ConfigParser(config).init_obj(section, module, *given)


def test_losses_and_metrics_that_are_not_there(tmp_path):
    folder = written(tmp_path, config={**CONFIG, "loss": "nll", "metrics": ["hit_rate", "top5"]})
    told = [text.split(": ", 1)[1] for text in found(folder, 0)]
    assert told == [
        "loss: 'nll' is not in model/loss.py",
        "metrics.1: 'top5' is not in model/metric.py",
    ]
    (folder / "model" / "loss.py").write_text(
        "from torch.nn.functional import *\n"
    )  # which may have it
    assert len(found(folder, 0)) == 1


def test_checkpoints_are_told_and_never_run(tmp_path):
    folder = written(
        tmp_path / "project",
        more="import torch\n\ntorch.load('x.pth')\ntorch.load('x.pth', weights_only=True)\n",
    )
    run = folder / "saved" / "models" / "x" / "0101"
    run.mkdir(parents=True)
    write_classic(run / "model_best.pth")
    write_classic(run / "old.pth", legacy=True)
    torch.save({"a": torch.ones(1)}, run / "other.pth")
    (run / "spoilt.pth").write_bytes(b"PK\x03\x04" * 100)
    loading, told = (text for text in found(folder, 1) if "ConfigParser" in text)
    assert told.startswith(
        "saved/models/x/0101/model_best.pth: 2 of 4 checkpoints hold a pickled ConfigParser"
    )
    assert loading.startswith("more.py:3: torch.load reads new checkpoints, and refuses old ones")
    with pytest.raises(CheckpointError, match="convert_checkpoint"):
        checkpoint.load(run / "model_best.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(run / "model_best.pth")
    checkpoint.save(convert(read_inert(run / "model_best.pth"), run), run / "new.pth")
    assert torch.load(run / "new.pth")["arch"] == "RingModel"


def worn(folder):
    """A project in which some years have left their marks."""
    train = (
        (CLASSIC / "train.py")
        .read_text()
        .replace("import prepare_device", "import helper, prepare_device")
    )
    metrics = "def mean(values):\n    return sum(values) / len(values)\n"
    written(folder, utils__util=UTIL, utils__metrics=metrics, train=train)
    (folder / "machinery.py").write_text("PATHS = {}\n")
    return folder


def pandas_before_3():
    return (
        importlib.util.find_spec("pandas")
        and int(importlib.metadata.version("pandas").split(".")[0]) < 3
    )


def test_a_worn_project_trains_when_it_is_changed_as_told(tmp_path):
    """The findings of one project, met one after the other by its own train.py."""
    folder = worn(tmp_path / "my_project")
    places = ["machinery.py:1", "utils/metrics.py:1"]
    places.append(f"utils/util.py:{line_of(UTIL, 'class Metric')}")
    text = migrate.report(folder)
    assert [told.split(": ")[0] for told in found(folder, 0)] == places
    assert all(place in text for place in places) and len(text.splitlines()) < 50
    shared = copy_template(tmp_path / "taken", SHARED)  # what the report says to take
    (shared / "utils" / "util.py").unlink()
    shutil.copytree(shared, folder, dirs_exist_ok=True)
    first = command(folder, "-c", "import machinery; print(hasattr(machinery, 'PATHS'))")
    assert first.stdout == "False\n"  # the folder hides the file
    second = command(folder, "-c", "from utils import MetricTracker; MetricTracker('loss')")
    met = (
        "No module named 'pandas'" in second.stderr or "read-only" in second.stderr
    )  # the latter since pandas 3
    assert (second.returncode == 1 and met) or (second.returncode == 0 and pandas_before_3())
    own = UTIL[: UTIL.index("class MetricTracker")]
    own = own.replace("import pandas as pd", "from utils.metrics import MetricTracker")
    (folder / "utils" / "util.py").write_text(own)
    third = quick(folder, "train.py", "-c", "config.json", "--check")
    assert third.returncode == 0, third.stderr


def test_hostile_files_are_lines_of_the_report(tmp_path, monkeypatch):
    folder = written(tmp_path / "project")
    bad = folder / "model"
    contents = {
        "binary": bytes(range(256)),
        "null": b"a\0b",
        "huge": b"#" * (project.PYTHON + 1),
        "syntax": b"def f(:\n",
        "parens": b"(" * 50_000,
        "attributes": b"a" + b".b" * 50_000,
        "sums": b"1" + b"+1" * 50_000,
        "latin": b"x = '\xe9'",
        "cookie": b"# coding: zlib\n",
        "digits": b"x = " + b"9" * 10_000,
    }
    for name, content in contents.items():
        (bad / f"{name}.py").write_bytes(content)
    (bad / "loop").symlink_to(bad)
    (bad / "circle.py").symlink_to(bad / "circle.py")
    (bad / "away.py").symlink_to(ROOT / "train.py")
    os.mkfifo(bad / "pipe.py")
    (bad / "folder.py").mkdir()
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "deep2.json").write_text(
        '{"trainer": {}, "arch": ' + '{"a":' * 3000 + "1" + "}" * 3001
    )
    (folder / "bytes.json").write_bytes(b'{"trainer": "\xff"}')
    nested = folder / "/".join("d" * 40)
    nested.mkdir(parents=True)
    for skipped in (".git", "venv", "data", "lib/site-packages", "other"):
        (folder / skipped).mkdir(parents=True)
        (folder / skipped / "bad.py").write_text("(")
    (folder / "other" / "pyvenv.cfg").write_text("")
    # Classes and imports in circles.
    (bad / "one.py").write_text(
        "from model.two import *\nfrom model.one import "
        "*\nclass A(B, C, C): pass\nclass B(A, A): pass\n"
    )
    (bad / "two.py").write_text(
        "from model.one import *\nfrom model.two import *\nclass C(A, A): pass\n"
    )
    (bad / "chain.py").write_text(
        "\n".join(f"class K{i}(K{i + 1}, K{i + 1}): pass" for i in range(3000))
    )
    (bad / os.fsdecode(b"\xff\n.py")).write_text("(")
    text = migrate.report(folder, everything=True)
    for name in [*contents, "circle", "away", "pipe"]:
        assert f"model/{name}.py (" in " ".join(text.split()), name
    assert "bad.py" not in text and "nested too deeply" in text and "deep2.json: " in text
    assert all(char.isprintable() or char == "\n" for char in text)
    monkeypatch.setattr(project, "FILES", 5)
    assert "too many files" in migrate.report(folder)


def test_nothing_of_the_project_is_run_or_changed(tmp_path):
    folder = written(tmp_path / "project")
    for path in folder.rglob("*.py"):
        path.write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n" + path.read_text())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    loaded = {getattr(module, "__file__", None) for module in sys.modules.values()}
    migrate.report(folder)
    after = {getattr(module, "__file__", None) for module in sys.modules.values()} - loaded
    assert not (tmp_path / "marker").exists() and not any(
        str(folder) in str(file) for file in after
    )
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_command(tmp_path):
    result = command(ROOT, "tools/migrate.py", CLASSIC)
    assert result.returncode == 0 and result.stderr == "" and len(result.stdout.splitlines()) < 40
    (tmp_path / "x.json").write_text('{"a": 1}')
    for path in (tmp_path, tmp_path / "none", ROOT, tmp_path / "x.json"):
        with pytest.raises(ConfigError) as error:
            migrate.report(path)
        assert "\n" not in str(error.value)
    refused = command(ROOT, "tools/migrate.py", tmp_path)
    assert (
        refused.returncode == 2
        and refused.stderr.count("\n") == 1
        and "no project of the classic" in refused.stderr
    )


def test_many_findings_stay_a_screen_or_two(tmp_path):
    lines = (
        "\n".join(f"from utils import name{i}" for i in range(500))
        + "\nfrom logger import Logger" * 50
    )
    text = migrate.report(written(tmp_path, model__more=lines))
    assert len(text.splitlines()) < 80 and "and 489 more: --all shows them" in text
    assert len(migrate.report(tmp_path, everything=True).splitlines()) > 500


def test_the_page_shows_a_real_report(tmp_path):
    page = (ROOT / "docs" / "migrating.md").read_text()
    (excerpt,) = [block for block in page.split("```") if "would be refused, or fail:" in block]
    assert "python tools/migrate.py" in page
    assert excerpt.strip() in migrate.report(worn(tmp_path / "my_project"))


def test_what_is_new_here_is_known():
    assert {
        "machinery/update/metrics.py",
        "machinery/checks/settings.py",
        "machinery/config/schema.py",
    } <= classic.new_files()
    assert {"restore", "_report", "_position"} <= classic.new_methods(
        "base.base_trainer", "BaseTrainer"
    )


def test_bases_that_cross_are_looked_at_once(tmp_path):
    lines = [
        "from base import BaseTrainer",
        "class A0(BaseTrainer): pass",
        "class B0(BaseTrainer): pass",
    ]
    for level in range(1, 60):  # of which each has twice as many ways up as the one before
        for name in "AB":
            lines.append(f"class {name}{level}(A{level - 1}, B{level - 1}): pass")
    folder = written(tmp_path, model__crossing="\n".join(lines))
    assert not any("crossing" in text for text in found(folder, 0))


def test_a_star_of_collections_is_no_mistake(tmp_path):
    folder = written(tmp_path, model__star="from collections import *\n")
    assert not any("star.py" in text for text in found(folder, 0))


BASE_TRAINER = """
from logger import TensorboardWriter


class BaseTrainer:
    def __init__(self, model, criterion, metric_ftns, optimizer, config):
        self.config = config
        self.model = model
        self.criterion = torch.nn.L1Loss()
        self.note = "mine"

    def _train_epoch(self, epoch):
        \"\"\"What the classic has, too.\"\"\"
        raise NotImplementedError

    def train(self):
        open("results.txt", "w")

    def tell(self):
        print(self.note)
"""
BASE_LOADER = """
class BaseDataLoader:
    def _split_sampler(self, split):
        return stratified(split)
"""
PARSER = """
class ConfigParser:
    def __init__(self, config, resume=None):
        self.run_id = "now"
        self._config = config

    @classmethod
    def from_args(cls, args, options="", fold=0):
        return cls(args)

    def init_obj(self, name, module, *args, allow_override=False, **kwargs):
        return getattr(module, self[name]["type"])(*args, **kwargs)

    def __getitem__(self, name):
        # The classic's own, too.
        return self.config[name]
"""


def test_what_was_changed_inside_the_shared_files_is_told(tmp_path):
    epoch = "print(self.note, self.config.run_id, self.config.args, self.config._config)"
    train = (CLASSIC / "train.py").read_text()
    train = train.replace("from_args(args, options)", "from_args(args, options, fold=3)")
    train = train.replace("    trainer.train()", "    trainer.train()\n    trainer.tell()")
    train = train.replace('("arch", module_arch)', '("arch", module_arch, allow_override=True)')
    text = source(the_epoch=epoch, the_class="def more(self):\n    self.tell()")
    folder = written(
        tmp_path / "project",
        base__base_trainer=BASE_TRAINER,
        base__base_data_loader=BASE_LOADER,
        parse_config=PARSER,
        trainer__trainer=text,
        train=train,
    )
    refused = found(folder, 0)
    at = f"trainer/trainer.py:{line_of(text, 'self.note')}"
    assert refused == [
        f"train.py:{line_of(train, 'allow_override')}: allow_override is an argument of your "
        "init_obj, which is replaced: leave it out",
        f"train.py:{line_of(train, 'trainer.tell()')}: "
        "tell is of your BaseTrainer, which is replaced: this one has none",
        f"train.py:{line_of(train, 'fold=3')}: from_args takes (parser, options) here: what else "
        "yours took, config.args has, or set it in the config that it gives",
        f"{at}: run_id is of your ConfigParser, which is replaced: this one has none",
        f"{at}: note is of your BaseTrainer, which is replaced: this one has none",
        f"trainer/trainer.py:{line_of(text, 'self.tell()')}: "
        "tell is of your BaseTrainer, which is replaced: this one has none",
    ]
    told = [line for line in found(folder, 1) if "not the classic's" in line]
    assert [line.partition(" is not")[0] for line in told] == [
        f"parse_config.py:{line_of(PARSER, 'def __init__')}: ConfigParser.__init__",
        f"parse_config.py:{line_of(PARSER, 'def from_args')}: ConfigParser.from_args",
        f"parse_config.py:{line_of(PARSER, 'def init_obj')}: ConfigParser.init_obj",
        f"base/base_data_loader.py:{line_of(BASE_LOADER, 'def _split')}: "
        "BaseDataLoader._split_sampler",
        f"base/base_trainer.py:{line_of(BASE_TRAINER, 'def __init__')}: BaseTrainer.__init__",
        f"base/base_trainer.py:{line_of(BASE_TRAINER, 'def train')}: BaseTrainer.train",
    ]
    assert "; it sets self.run_id: " in told[0] and "; it sets self.note: " in told[4]
    own = [line_of(BASE_TRAINER, "L1Loss"), line_of(BASE_TRAINER, '"mine"')]
    assert own[1] == own[0] + 1 and f"(lines {own[0]}-{own[1]})" in told[4]
    text = migrate.report(folder)
    assert "base/base_trainer.py: BaseTrainer.tell; lost when the file is replaced" in text


def test_what_stays_is_not_told(tmp_path):
    """A name that a class of the project's own sets, too, or that the template has."""
    text = source(the_setup="self.note = 5\nself.checkpoint_dir", the_epoch="print(self.note)")
    folder = written(tmp_path / "project", base__base_trainer=BASE_TRAINER, trainer__trainer=text)
    assert found(folder, 0) == []


def test_a_digest_is_of_what_a_function_does():
    from tools.migration.bodies import bodies, digest

    def of(text):
        (body,) = bodies(ast.parse(text))
        return digest(body.node)

    plain = of("def f(a, b=1):\n    return g(a, 'x')\n")
    assert plain == of(
        'def f(a: int, b=1) -> int:\n    """Text."""\n    return g(a,\n  "x")  # so\n'
    )
    assert plain != of("def f(a, b=1):\n    return g(a, 'y')\n")
    assert plain != of("def f(a, b=2):\n    return g(a, 'x')\n")
    assert plain == "637d6b0fa2e0"  # on each version of Python


PER_CLASS = (
    UTIL
    + """
    def update(self, key, value, n=1):
        self._data.total[key] += value * n

    def result(self):
        return dict(self._data.average)

    def current(self):
        return dict(self._data.total)
"""
)
#: As the report says it.
MENDED = """
    def reset(self):
        self._data.loc[:] = 0

    def update(self, key, value, n=1):
        self._data.loc[key, "total"] += value * n
        self._data.loc[key, "counts"] += n
        average = self._data.loc[key, "total"] / self._data.loc[key, "counts"]
        self._data.loc[key, "average"] = average

"""
DERIVED = """
from utils.metrics import MetricTracker as Base


class MetricTracker(Base):
    def current(self):
        return {key: 8 for key in self.result()}
"""


def test_a_tracker_with_methods_of_its_own_is_derived_or_mended(tmp_path):
    folder = written(tmp_path / "project", utils__util=PER_CLASS)
    (told,) = found(folder, 0)
    assert "has methods of its own (" in told and "current" in told and "derive it from" in told
    own = {}
    exec(DERIVED, own)
    tracker = own["MetricTracker"]("loss")
    tracker.update("loss", 2.0, 3)
    assert tracker.current() == {"loss": 8}
    start, end = PER_CLASS.index("    def reset"), PER_CLASS.index("    def result")
    mended = PER_CLASS[:start] + MENDED.lstrip("\n") + PER_CLASS[end:]
    assert found(written(tmp_path / "mended", utils__util=mended), 0) == []
    pytest.importorskip("pandas")
    exec(mended, own)
    tracker = own["MetricTracker"]("loss", "accuracy")
    for value in (1.0, 3.0):
        tracker.update("loss", value, 2)
    assert tracker.result() == {"loss": 2.0, "accuracy": 0} and tracker.current()["loss"] == 8


def test_data_that_torch_loads_is_no_checkpoint(tmp_path):
    lines = (
        "import torch\na = torch.load('data/train.pt')\nb = torch.load(config.resume)\n"
        "c = torch.load('data/x.pt', weights_only=False)\n"
    )
    told = [text for text in found(written(tmp_path, model__more=lines), 1) if "more.py" in text]
    assert len(told) == 2 and told[0].startswith("model/more.py:2: torch.load reads tensors and")
    assert told[1].startswith("model/more.py:3: torch.load reads new checkpoints")


def test_files_of_a_mac_beside_others_are_passed_over(tmp_path):
    folder = written(tmp_path / "project")
    (folder / "model" / "._model.py").write_bytes(b"\0\5\x16")
    (folder / "._config.json").write_bytes(b"\0\5\x16")
    assert "._" not in migrate.report(folder, everything=True)


def test_a_package_of_helpers_of_the_project_s_own_may_stay(tmp_path):
    package = "from .util import *\nfrom .more import extra\n"
    folder = written(
        tmp_path / "project",
        utils__more="def extra():\n    return 1\n",
        model__more="from utils import extra, helper\n",
        utils__util="from utils.metrics import MetricTracker\n\n\ndef helper():\n    pass\n",
    )
    (folder / "utils" / "__init__.py").write_text(package)
    text = migrate.report(folder)
    assert found(folder, 0) == [] and "utils/ (but for utils/__init__.py, utils/util.py)" in text
    assert "utils/__init__.py: an import of more; yours may stay" in text


MORE_ARGUMENTS = """
class BaseDataLoader:
    def __init__(self, dataset, batch_size, shuffle, validation_split, {}):
        self.own = 5
"""
LOADER_OF_IT = """
from base import BaseDataLoader


class Loader(BaseDataLoader):
    def __init__(self, data):
        super().__init__(data, 4, False, 0.0, {})
"""


@pytest.mark.parametrize(
    ("takes", "given", "told", "met"),
    [
        ("num_workers, pin_memory=False", "0, True", "takes pin_memory by its name", "by name"),
        ("test_split, num_workers", "0.1, 0", "test_split is of your BaseDataLoader", ""),
        ("num_workers, collate_fn=None, seed=1", "0, None, 3", "seed is of your", "takes from 2"),
    ],
)
def test_arguments_of_a_base_loader_that_took_more(tmp_path, takes, given, told, met):
    text = LOADER_OF_IT.format(given)
    base = MORE_ARGUMENTS.format(takes)
    folder = written(tmp_path / "a", data_loader__more=text, base__base_data_loader=base)
    (found_there,) = [line for line in found(folder, 0) if "more.py" in line]
    assert found_there.startswith(f"data_loader/more.py:{line_of(text, 'super()')}: ")
    assert told in found_there
    module = types.ModuleType("own_loader")
    exec(text, vars(module))
    if met:
        with pytest.raises((ConfigError, TypeError), match=met):
            module.Loader(tiny.Points(10))
    as_told = LOADER_OF_IT.format("0, pin_memory=True")
    exec(as_told, vars(module))
    assert len(module.Loader(tiny.Points(10))) == 3
    if "test_split" not in takes:  # whose place num_workers has
        folder = written(tmp_path / "b", data_loader__more=as_told, base__base_data_loader=base)
        assert not any("more.py" in line for line in found(folder, 0))


def test_older_names_of_a_trainer_are_known(tmp_path):
    base = BASE_TRAINER.replace(
        'self.note = "mine"', "self.metric_fns = self.loss = self.metrics = 5"
    )
    text = source(the_setup="print(self.metric_fns, self.loss, self.metrics, self.metric_ftns)")
    folder = written(
        tmp_path, base__base_trainer=base.replace("self.note", "5"), trainer__trainer=text
    )
    assert found(folder, 0) == []
    assert {*OLDER["BaseTrainer"].split()} == {*OLDER_NAMES}
    trainer_of(text, tmp_path)


def test_a_tracker_that_only_writes_nothing_is_none_of_its_own(tmp_path):
    quiet = PER_CLASS[: PER_CLASS.index("    def current")]
    (told,) = found(written(tmp_path / "project", utils__util=quiet), 0)
    assert told.endswith("write from utils.metrics import MetricTracker in its place")


def test_the_order_of_a_set_is_told(tmp_path):
    """Of text it is another in each process: two that count the same names number them apart."""
    text = "names = ['a', 'b', 'c', 'd', 'e', 'f']\nnumbers = list(set(names))\n"
    folder = written(tmp_path / "a", data_loader__names=text)
    (told,) = [line for line in found(folder, 1) if "names.py" in line]
    assert told.startswith("data_loader/names.py:2: list(set(…)) of text is in another order")
    as_told = text.replace("list(set(names))", "sorted(set(names))")
    folder = written(tmp_path / "b", data_loader__names=as_told)
    assert not any("names.py" in line for line in found(folder, 1))
    orders = {}
    for code in (text, as_told):
        program = [sys.executable, "-c", code + "print(numbers)"]
        for seed in ("1", "2"):
            env = {**os.environ, "PYTHONHASHSEED": seed}
            shown = subprocess.run(program, env=env, capture_output=True, text=True, check=True)
            orders.setdefault(code, set()).add(shown.stdout)
    assert len(orders[text]) == 2 and len(orders[as_told]) == 1
