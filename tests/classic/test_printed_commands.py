"""What the scripts of classic projects are told to type, and what they do with a run by hand."""

import json
import re
import shlex
import shutil

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked

from machinery.checkpoints import file as checkpoint
from projects import ROOT, SHARED, copy_template, quick

CLASSIC = ROOT / "tests" / "classic_project"
TEST = """
import argparse
from parse_config import ConfigParser
import data_loader.data_loaders as module_data
import model.model as module_arch

parser = argparse.ArgumentParser()
parser.add_argument("-r", "--resume")
parser.add_argument("-c", "--config")
parser.add_argument("-d", "--device")
config = ConfigParser.from_args(parser)
model = config.init_obj("arch", module_arch)
print("tested with batches of", config["data_loader"]["args"]["batch_size"])
"""
PARSED_BEFORE = """    given = args.parse_args()
    assert given.fold is not None
    config = ConfigParser.from_args(%s, options)"""
FOLD = """    args.add_argument("--fold", type=int, required=True, choices=[0, 1])
    args.add_argument("--tags", nargs="*", default=["a"])
    args.add_argument("--quiet", action="store_true")
    args.add_argument("-v", action="count", default=0)
    args.add_argument("--also", action="append", type=lambda text: text.split(","))
"""
LINE = "    config = ConfigParser.from_args(args, options)"


def made(folder, parses="", test=True, fold=True):
    copy_template(folder, SHARED)
    shutil.copytree(CLASSIC, folder, dirs_exist_ok=True)
    text = (folder / "train.py").read_text()
    assert LINE in text
    if fold:
        text = text.replace("    CustomArgs =", FOLD + "    CustomArgs =")
    if parses:
        text = text.replace(LINE, PARSED_BEFORE % parses)
    (folder / "train.py").write_text(text)
    if test:
        (folder / "test.py").write_text(TEST)
    config = json.loads((folder / "config.json").read_text())
    config["data_loader"]["args"]["num_workers"] = 0
    config["trainer"] |= {"epochs": 2, "tensorboard": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def typed(folder, *words):
    result = quick(folder, *words)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def followed(folder, line):
    """Do what a line says that may ask to write settings into a file first."""
    first = re.fullmatch(r"with (.*) in (\S+): (.*)", line)
    if first is not None:
        path = folder / first[2]
        config = json.loads(path.read_text())
        for setting in first[1].split(", "):
            key, value = setting.split("=")
            section, name = key.split(".")
            config[section][name] = json.loads(value)
        path.write_text(json.dumps(config))
        line = first[3]
    words = shlex.split(line)
    assert words[0] == "python"
    return words, typed(folder, *words[1:])


OWN = ["--fold", "1", "--tags", "x", "y z", "--quiet", "-v", "-v", "--also", "a,b", "--also", "c"]


@pytest.mark.parametrize("parses", ["", "given", "args"])
def test_the_commands_that_are_printed_work(tmp_path, parses):
    folder = made(tmp_path / "project", parses)
    told = typed(folder, "train.py", "-c", "config.json", *OWN)
    continuing = re.search("continue: (.*)", told)[1]
    words, again = followed(folder, continuing)
    assert "4 epochs" in again or re.search(r"\n +4 ", again), again
    assert words[-len(OWN) :] == OWN or parses == ""
    assert {"--fold", "--quiet", "y z", "a,b"} <= set(words)
    assert ("--set" in words) == (parses == "")
    _, tested = followed(folder, re.search("test: +(.*)", told)[1])
    assert "tested with batches of 32" in tested


def test_options_that_are_not_typed_are_not_printed(tmp_path):
    folder = made(tmp_path / "project", test=False)
    told = typed(folder, "train.py", "-c", "config.json", "--fold", "0", "--lr", "0.02")
    assert re.search("continue: (.*)", told)[1].endswith("--set trainer.epochs=4 --fold 0")
    assert "test:  " not in told  # there is no test.py


@pytest.mark.parametrize("parses", ["", "given"])
def test_the_config_of_a_run_may_be_edited(tmp_path, parses):
    folder = made(tmp_path / "project", parses, fold=False)
    text = (folder / "train.py").read_text().replace("    assert given.fold is not None\n", "")
    (folder / "train.py").write_text(text)
    typed(folder, "train.py", "-c", "config.json")
    (run,) = (folder / "saved" / "models" / "Classic_Rings").iterdir()
    config = json.loads((run / "config.json").read_text())
    config["trainer"]["epochs"] = 3
    config["data_loader"]["args"]["batch_size"] = 64
    (run / "config.json").write_text(json.dumps(config))
    tested = typed(folder, "test.py", "-r", run / "model_best.pth")
    assert "tested with batches of 64" in tested and "batch_size 32 -> 64" in tested
    told = typed(folder, "train.py", "-r", run / "checkpoint-epoch2.pth")
    assert "trainer.epochs 2 -> 3" in told and (run / "checkpoint-epoch3.pth").exists()
    assert checkpoint.load(run / "checkpoint-epoch3.pth")["config"] == config
    (run / "config.json").write_text('{"name": }')
    refused = quick(folder, "train.py", "-r", run / "checkpoint-epoch3.pth")
    assert refused.returncode == 2 and "config.json:1" in refused.stderr


def test_an_edited_config_reaches_no_further_than_the_checkpoint_s(tmp_path):
    folder = made(tmp_path / "project", fold=False)
    typed(folder, "train.py", "-c", "config.json")
    (run,) = (folder / "saved" / "models" / "Classic_Rings").iterdir()
    config = json.loads((run / "config.json").read_text())
    config["data_loader"]["args"]["data_dir"] = "/nowhere/to/be"
    (run / "config.json").write_text(json.dumps(config))
    refused = quick(folder, "train.py", "-r", run, "--set", "trainer.epochs=3")
    assert refused.returncode == 4 and "/nowhere/to/be is outside the project" in refused.stderr


def test_a_template_s_own_run_says_that_it_is_a_record(tmp_path):
    folder = copy_template(tmp_path / "project")
    quickly = ["--set", "trainer.len_epoch=2", "--set", "trainer.tensorboard=false"]
    typed(folder, "train.py", "-c", "config.json", *quickly, "--set", "trainer.epochs=1")
    (run,) = (folder / "saved" / "models" / "Digits_LeNet").iterdir()
    config = json.loads((run / "config.json").read_text())
    config["trainer"]["epochs"] = 7
    (run / "config.json").write_text(json.dumps(config))
    told = typed(folder, "train.py", "-r", run)
    assert "the checkpoint's config counts, not trainer.epochs 1 -> 7" in told
    assert "nothing to do (epoch 1 of 1)" in told


def test_nan_in_what_is_monitored_does_not_end_a_loop_of_ones_own(tmp_path):
    folder = made(tmp_path / "project", fold=False)
    path = folder / "trainer" / "trainer.py"
    text = path.read_text().replace(
        "        log = self.train_metrics.result()\n",
        "        log = self.train_metrics.result()\n"
        "        if epoch == 1:\n            return {**log, 'val_loss': float('nan')}\n",
    )
    path.write_text(text)
    told = typed(folder, "train.py", "-c", "config.json")
    assert "val_loss became nan in epoch 1 (lr 0.01): no improvement" in told
    assert "in epoch 2: " in told  # which is the best
    words = ["--set", 'trainer.on_nan="stop"']
    ended = quick(folder, "train.py", "-c", "config.json", *words)
    assert ended.returncode == 5 and "nan in epoch 1 (lr 0.01)" in ended.stderr


def test_weights_that_are_spoilt_still_end_it(tmp_path):
    folder = made(tmp_path / "project", fold=False)
    path = folder / "trainer" / "trainer.py"
    spoil = "        with torch.no_grad(): self.model.fc1.weight.mul_(float('nan'))\n"
    text = path.read_text().replace("        log = self.train", spoil + "        log = self.train")
    path.write_text(text)
    ended = quick(folder, "train.py", "-c", "config.json")
    assert ended.returncode == 5 and "weights became NaN" in ended.stderr
    assert "(lr 0.01)" in ended.stderr and not list(folder.glob("saved/models/*/*/*.pth"))


CALLS = [
    ("super().__init__(model, criterion, metric_ftns, optimizer, config)",
     "super().__init__(model, criterion, metric_ftns, optimizer, config, lr_scheduler)",
     "BaseTrainer.__init__ takes (self, model, criterion, metric_ftns, optimizer, config) here"),
    ("super().__init__(model, criterion, metric_ftns, optimizer, config)",
     "super().__init__(model, criterion, metrics=metric_ftns, optimizer=optimizer, config=config)",
     "BaseTrainer.__init__ takes (self, model, criterion, metric_ftns, optimizer, config) here"),
    ("super().__init__(model, criterion, metric_ftns, optimizer, config)",
     "super().__init__(model, criterion, metric_ftns, optimizer, dict(config.config))",
     "Trainer is given a dict, not this template's of parse_config.py"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "told"), CALLS)
def test_a_base_that_is_given_something_else(tmp_path, before, after, told):
    folder = made(tmp_path / "project", fold=False)
    path = folder / "trainer" / "trainer.py"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    refused = quick(folder, "train.py", "-c", "config.json")
    assert refused.returncode == 2 and told in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and not (folder / "saved").exists()
    assert "trainer/trainer.py:" in refused.stderr or "dict" in told


OTHER_PARSER = """
from parse_config import ConfigParser as Theirs

class ConfigParser:
    def __init__(self, config):
        self.config = config
    def get_logger(self, *args):
        pass
    def __getitem__(self, name):
        return self.config[name]
"""


def test_a_config_parser_of_ones_own(tmp_path):
    folder = made(tmp_path / "project", fold=False)
    (folder / "own_config.py").write_text(OTHER_PARSER)
    text = (folder / "train.py").read_text()
    text = text.replace("config=config", "config=Own(config.config)")
    text = text.replace("from trainer", "from own_config import ConfigParser as Own\nfrom trainer")
    (folder / "train.py").write_text(text)
    refused = quick(folder, "train.py", "-c", "config.json")
    assert refused.returncode == 2 and "is given a ConfigParser of " in refused.stderr
    assert "own_config.py, not this template's of parse_config.py" in refused.stderr
    # As it says:
    text = text.replace("from own_config import ConfigParser as Own", "")
    text = text.replace("Own(config.config)", "config")
    derived = "class Own(ConfigParser):\n    pass\n\n\ndef main("
    text = text.replace("def main(", derived).replace("ConfigParser.from_args", "Own.from_args")
    (folder / "train.py").write_text(text)
    typed(folder, "train.py", "-c", "config.json", "--check")


ADAPTS = '''
    def load_state_dict(self, state_dict):
        """Weights of before had other names, and a head that is gone."""
        known = {}
        for name, value in state_dict.items():
            name = name.replace("first", "fc1")
            if not name.startswith("head"):
                known[name] = value
        return super().load_state_dict(known)
'''


@pytest.mark.parametrize("words", [["-c", "config.json"], ["--set", "trainer.epochs=3"]])
def test_a_network_that_makes_weights_fit(tmp_path, words):
    """Of a new run, and of one that goes on."""
    folder = made(tmp_path / "project", fold=False)
    typed(folder, "train.py", "-c", "config.json")
    (run,) = (folder / "saved" / "models" / "Classic_Rings").iterdir()
    path = run / "checkpoint-epoch2.pth"
    content = dict(checkpoint.load(path))
    weights = {name.replace("fc1", "first"): value for name, value in content["state_dict"].items()}
    content["state_dict"] = {**weights, "head.weight": torch.zeros(2)}
    checkpoint.save(content, path)
    line = ["train.py", *words, "-r", path, "--check"]
    refused = quick(folder, *line)
    assert refused.returncode == 4, refused.stderr
    code = folder / "model" / "model.py"
    code.write_text(code.read_text() + ADAPTS)
    typed(folder, *line)
