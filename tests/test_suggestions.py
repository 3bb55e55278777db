"""What the program suggests is typed here, literally: each suggestion is brought about, followed, and has to help.

A command takes a quarter of a second: it runs in a forked process that has torch already, but none of the project.
"""

import ast
import gc
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
import tiny
import torch
import torch._dynamo
from projects import OWN, ROOT, SHARED, copy_template
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from base import BaseDataLoader
from config.factory import init_optimizer
from parse_config import ConfigParser
from trainer import Trainer
from utils import run_folder
from utils.errors import UserError

PROJECT = {Path(part).stem for part in SHARED + OWN} | {"examples", "tools"}
#: What a project may hold.
MODELS = '''

class Norm(BaseModel):
    """Wants more than one sample."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(784, 10), nn.BatchNorm1d(10)

    def forward(self, x):
        return self.norm(self.fc(x.flatten(1))).log_softmax(1)


class Stops(Norm):
    """Is asked to stop in its third step."""

    calls = 0

    def forward(self, x):
        import os
        import signal

        self.calls += self.training
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x)


class Wide(MnistModel):
    """Fits at neither end."""

    def __init__(self):
        super().__init__(11)
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5, bias=False)
'''
LOSSES = '''

class Late:
    """NaN after n updates of a process."""

    def __init__(self, n):
        self.n, self.calls = n, 0

    def __call__(self, output, target):
        self.calls += output.requires_grad
        return F.nll_loss(output, target) * (float("nan") if self.calls > self.n else 1)
'''
LOADERS = '''

class Roots(DigitsDataLoader):
    """Takes paths that need not be there."""

    def __init__(self, roots=(), cache="", **options):
        super().__init__(**options)


class Bare(BaseDataLoader):
    """Has no test data."""

    def __init__(self, batch_size=64):
        super().__init__(DigitsDataLoader().dataset, batch_size, True, 0, 0)


class FrailImages(InMemoryImages):
    """Kill a worker, and cannot be read after the first epoch while there is a file "broken"."""

    calls = 0

    def __getitems__(self, indices):
        import os

        if torch.utils.data.get_worker_info():
            os._exit(1)
        FrailImages.calls += 1
        if FrailImages.calls > 12 and (ROOT / "broken").exists():
            raise OSError("the disk is gone")
        return super().__getitems__(indices)


class Frail(DigitsDataLoader):
    def __init__(self, **options):
        super().__init__(**options)
        self.dataset.__class__ = FrailImages
'''
#: Has a second scheduler, of a fixed length.
TWO = """
import argparse
import torch
import train
from parse_config import ConfigParser

trainer = train.build(ConfigParser.from_args(argparse.ArgumentParser(), train.OPTIONS, partial=False))
other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
trainer.other_scheduler = torch.optim.lr_scheduler.OneCycleLR(other, 0.1, total_steps=trainer.epochs)
trainer.train()
"""
#: Trains without reading a command line, as in a notebook.
SWEEP = """
from parse_config import ConfigParser
from train import main

main(ConfigParser("short.json", run_id="sweep"))
"""
CYCLE = '{"type": "OneCycleLR", "args": {"max_lr": 0.01}}'
COSINE = '{"type": "CosineAnnealingLR", "args": {"T_max": 2, "eta_min": 1e-5}}'
LEAP = '{"type": "StepLR", "args": {"step_size": 1, "gamma": 1e30}}'
LATE = '{"type": "Late", "args": {"n": 4}}'
FLAT = "--set optimizer.args.lr=0 --set 'trainer.monitor=max val_loss'"
ONE = "saved/models/Digits_LeNet/one"
QUICK = "--set trainer.epochs=1 --set trainer.len_epoch=2 --set trainer.tensorboard=false"
fault = pytest.mark.xfail


class Said(NamedTuple):
    code: int
    text: str


def _python(words, cwd):
    """What `python WORDS` does, in this process."""
    gc.freeze()  # which spares the memory that is shared
    sys.dont_write_bytecode = False  # which spares the next command the compiling
    os.chdir(cwd)
    for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT]:
        del sys.modules[name]
    own = (str(ROOT), str(ROOT / "tests"))
    sys.path[:] = [str(Path(words[0]).resolve().parent), *(path for path in sys.path if path not in own)]
    sys.argv = words
    logging.getLogger().handlers.clear()
    code = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = 1
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except SystemExit as end:
            code = end.code
    sys.stdout.flush()
    os._exit(code or 0)


def typed(cwd, line):
    """Type a command in a folder; its exit code and what it prints."""
    words = shlex.split(line)
    output = cwd / ".said"
    output.unlink(missing_ok=True)
    process = forked.start(_python, words[words[0] == "python" :], str(cwd), output=output)
    code = forked.finish(process)
    return Said(code, output.read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in a folder that wants quotes, with a finished run of two epochs of two batches."""
    folder = copy_template(
        tmp_path_factory.mktemp("suggestions") / "one's project", (*SHARED, *OWN, "tools", "examples")
    )
    for name, code in (("model/model", MODELS), ("model/loss", LOSSES), ("data_loader/data_loaders", LOADERS)):
        with open(folder / f"{name}.py", "a") as file:
            file.write(code)
    config = json.loads((folder / "config.json").read_text())
    config["n_gpu"] = 0
    config["trainer"] |= {"tensorboard": False, "len_epoch": 2, "epochs": 2, "verbosity": 1, "log_step": 1}
    (folder / "short.json").write_text(json.dumps(config, indent=4))
    (folder / "commands").mkdir()
    (folder / "commands" / "cycle.json").write_text(json.dumps({**config, "lr_scheduler": json.loads(CYCLE)}, indent=4))
    train = (folder / "train.py").read_text()
    (folder / "lbfgs.py").write_text(
        train.replace("from trainer import Trainer", "from examples.lbfgs import LBFGSTrainer as Trainer")
    )
    (folder / "my train.py").write_text(train)
    (folder / "two.py").write_text(TWO)
    (folder / "sweep.py").write_text(SWEEP)
    assert typed(folder, "train.py -c short.json --run_id one").code == 0
    (folder / "loose weights").mkdir()
    shutil.copy(folder / ONE / "model_best.pth", folder / "loose weights" / "w.pth")
    return folder


class Case(NamedTuple):
    """A command that suggests something, and what is done then."""

    #: A piece of the suggestion as it stands in the code.
    of: str
    #: What it looks like; groups are what is to be typed.
    says: str
    #: The command, and what of it the suggestion replaces. $C is that of a short training, $RUN a new name.
    words: str
    wrong: str = ""
    #: What is typed in place of it, $1 being the first group; or a whole command.
    then: str = "$1"
    #: A command of before.
    before: str = ""
    #: What the second command ends with, and prints.
    code: int = 0
    done: str = ""


def case(name, *values, marks=(), **fields):
    return pytest.param(Case(*values, **fields), id=name, marks=marks)


def new_run(name, setting, before="", of="start a new run with -c and -r"):
    """A setting that a run under way cannot take."""
    run = "$FOLDER" if before else ONE
    wrong, then = f"-r {run}/checkpoint-epoch1.pth {setting}", f"$1 short.json $2 {run} {setting}"
    says = "start a new run with (-c) and (-r)"
    return case(name, of, says, "train.py", wrong, then, before=before)


def slip(name, of, says, wrong, then="", marks=()):
    """A mistake in what is set."""
    return case(name, of, says, "$C", f"--set {wrong}", f"--set {then}" if then else "", marks=marks)


GOING_ON = [
    case("continue", "continue: {}", "continue: (.*)", "$C --run_id $RUN", done=r"\n +3 +\d"),
    case("test", "test:     {}", "test: +(.*)", "$C --run_id $RUN", done="test data, 1,000 samples"),
    case(
        "early",
        "continue: {}",
        "continue: (.*)",
        f"$C --run_id $RUN --set trainer.epochs=4 {FLAT} $STOP=1",
        done=r"\n +3 ",
    ),
    case(
        "early-in-the-last-epoch",
        "continue: {}",
        "continue: (.*)",
        f"$C --run_id $RUN {FLAT} $STOP=1",
        done=r"\n +3 ",
        marks=fault(strict=True, reason="more epochs alone do not help a run whose patience is at its end"),
    ),
    case(
        "early-by-a-lower-patience",
        "continue: {}",
        "continue: (.*)",
        "train.py -r $FOLDER $STOP=1 --set trainer.epochs=8",
        before=f"$C --run_id $RUN --set trainer.epochs=4 {FLAT}",
        done=r"\n +5 ",
        marks=fault(strict=True, reason="twice the new patience is less than what has passed, and the epochs are lost"),
    ),
    case(
        "second-scheduler",
        "continue: {}",
        r"best val_loss(?:(?s:.*)continue: (.*))?",
        "two.py -c short.json --run_id $RUN",
        marks=fault(strict=True, reason="a scheduler of fixed length under another name is not seen"),
    ),
    case(
        "program",
        "continue: {}",
        "continue: (.*)",
        "sweep.py",
        done=r"resuming from",
        marks=fault(strict=True, reason="a program that reads no command line is named as if it were train.py"),
    ),
    case(
        "idle",
        "raise trainer.epochs",
        r"nothing to do .*raise (trainer\.epochs)",
        "train.py -r $FOLDER",
        then="--set $1=3",
        before="$C --run_id $RUN",
    ),
    case(
        "idle-early",
        "stopped early; raise trainer.early_stop",
        r"raise (trainer\.early_stop) to",
        "train.py -r $FOLDER",
        then="--set $1=2",
        before=f"$C --run_id $RUN --set trainer.epochs=4 {FLAT} $STOP=1",
    ),
    case(
        "idle-of-fixed-length",
        "raise trainer.epochs",
        r"nothing to do \S+ \S+ of 2\)(?:.*raise (trainer\.epochs))?",
        "train.py -r $FOLDER",
        then="--set $1=3",
        before=f"$C --run_id $RUN --set 'lr_scheduler={CYCLE}'",
        marks=fault(strict=True, reason="a OneCycleLR cannot take more epochs"),
    ),
    case("stopped", "resume: {}", "resume: (.*)", "$C --run_id $RUN --set arch.type=Stops", done=r"\n +2 "),
    case(
        "nan",
        "resume: {}",
        "resume: (.*)",
        f"$C --run_id $RUN --set optimizer.type=SGD --set 'lr_scheduler={LEAP}'",
        marks=fault(strict=True, reason="exact as a run is, the same comes again"),
    ),
    case(
        "nan-after-a-best-that-was-not-due",
        "resume: {}",
        "resume: (.*)",
        f"$C --run_id $RUN --set 'loss={LATE}' --set trainer.save_period=5 --set trainer.epochs=4",
        marks=fault(strict=True, reason="the best is there, but nothing is said to have been saved"),
    ),
    case(
        "batch-of-one",
        "a batch of one sample",
        r"set (data_loader\.args\.drop_last)",
        "$C --bs 3599 --set arch.type=Norm",
        then="--set $1=true",
    ),
    case(
        "batch-of-one-size",
        "a batch of one sample",
        "another (batch_size)",
        "$C --set arch.type=Norm",
        "--bs 3599",
        "--bs 9",
    ),
    case(
        "batch-of-one-inside-an-epoch",
        "a batch of one sample",
        r"cannot pass BatchNorm(?:: set (data_loader\.args\.drop_last).*\n.*resume: (.*))?",
        "$C --run_id $RUN --bs 3599 --set arch.type=Norm --set trainer.len_epoch=null --set trainer.save_step=1",
        then="$2 --set $1=true",
        marks=fault(strict=True, reason="inside an epoch its number of batches cannot be changed"),
    ),
]
STARTING = [
    case("what-to-train", "what to train: -c config.json", "(-c config.json)", "train.py", then=f"$1 {QUICK}"),
    case("what-to-continue", "say {}-r CHECKPOINT", "run: (-r) CHECKPOINT", "train.py", then=f"$1 {ONE}"),
    case("what-to-evaluate", "what to evaluate: ", "evaluate: (-r) CHECKPOINT", "test.py", then=f"$1 {ONE}"),
    case("auto", "-r auto needs", "the run: (.*)", f"train.py {QUICK} --run_id $RUN", "-r auto"),
    case("set", "such as --set trainer.epochs=3", "such as (.*)", "$C", "--set trainer.epochs"),
    case(
        "exists-go-on", "continue it with -r auto", "it with (-r auto)", "$C --run_id $RUN", before="$C --run_id $RUN"
    ),
    case("exists-another", "choose another --run_id", "another (--run_id)", "$C", "--run_id one", "$1 $RUN"),
    case(
        "exists-without-a-checkpoint",
        "continue it with -r auto",
        "exists: (?:continue it with (-r auto))?",
        "$C --run_id $RUN",
        f"-r {ONE}",
        before=f"""$C --run_id $RUN -r {ONE} --set 'loss={{"type": "Late", "args": {{"n": 0}}}}'""",
        done="weights from",
        marks=fault(strict=True, reason="a fine-tuning that has saved nothing starts from random weights"),
    ),
    case(
        "runs",
        "its runs: {}",
        r"its runs: (.*)",
        "train.py",
        "-r saved/models/Runs",
        "-r saved/models/Runs/$1",
        before="$C --set name=Runs --run_id r",
    ),
    case("run_id", "--run_id names a new run", "(keeps its folder)", f"train.py -r {ONE}", "--run_id x", " "),
    case("name", "keeps its name", "(keeps its name)", f"train.py -r {ONE}", "--set name=Other", " "),
    case(
        "loose",
        "start a new run with its weights",
        "weights: (-c) CONFIG (.*)",
        "train.py",
        "-r 'loose weights/w.pth'",
        "$1 short.json $2",
    ),
    case(
        "traceback",
        "--traceback shows",
        "(--traceback) shows",
        "$C --set arch.args.num_classes=5",
        code=1,
        done="Traceback",
    ),
    case(
        "traceback-of-a-named-run",
        "--traceback shows",
        r"(?s)\n  at .*?(?:(--traceback) shows|$)",
        "$C --set arch.args.num_classes=5 --run_id $RUN",
        code=1,
        done="Traceback",
        marks=fault(strict=True, reason="the run's folder is there by now"),
    ),
    case(
        "traceback-in-test",
        "--traceback shows",
        "(--traceback) shows",
        f"""test.py -r {ONE} --set 'metrics=[{{"type": "top_k_acc", "args": {{"k": 99}}}}]'""",
        code=1,
        done="Traceback",
    ),
    *(
        case(
            f"outside-{name}",
            "if it is to be made, say so",
            "say so: (.*)",
            f"{script} -r $FOLDER",
            before=f"$C --run_id $RUN --set data_loader.type=Roots --set {setting}",
            marks=marks,
        )
        for name, script, setting, marks in (
            ("train", "train.py", """"data_loader.args.cache=/nowhere/one's cache" """, ()),
            ("test", "test.py", "data_loader.args.cache=/nowhere/else", ()),
            (
                "list",
                "train.py",
                """'data_loader.args.roots=["/nowhere/else"]'""",
                fault(strict=True, reason="the place in a list is set, and not known as set"),
            ),
        )
    ),
    case(
        "skip",
        "to leave them out",
        r'"arch": \{"skip": (.*)\}',
        f"$C -r {ONE} --set arch.args.num_classes=11",
        then="--set 'arch.skip=$1'",
    ),
    case(
        "skip-more",
        "to leave them out",
        r'"arch": \{"skip": (.*)\}',
        f"$C -r {ONE} --set arch.type=Wide",
        """--set 'arch.skip=["conv1.*"]'""",
        "--set 'arch.skip=$1'",
        marks=fault(strict=True, reason="what is skipped already is not in the list"),
    ),
    new_run("interval", "--set lr_scheduler.interval=step"),
    new_run("flag", "--set optimizer.args.amsgrad=true"),
    new_run("schedule", "--set lr_scheduler.args.gamma=0.5"),
    new_run(
        "rate",
        "--lr 0.1",
        f"$C --run_id $RUN --set 'lr_scheduler={COSINE}'",
        "a running schedule cannot take another",
    ),
    new_run("length", "--set trainer.epochs=4", f"$C --run_id $RUN --set 'lr_scheduler={CYCLE}'"),
    case(
        "keep-the-epochs",
        "keep the epochs",
        "(keep the epochs)",
        "train.py -r $FOLDER/checkpoint-epoch1.pth",
        "--set trainer.epochs=4",
        " ",
        before=f"$C --run_id $RUN --set 'lr_scheduler={CYCLE}'",
    ),
]
SETTING = [
    case(
        "max_lr",
        "set lr_scheduler.args.max_lr",
        r"set (\S+) instead",
        f"$C --set 'lr_scheduler={CYCLE}'",
        "--lr 0.1",
        "--set $1=0.1",
    ),
    case(
        "max_lr-continued",
        "set lr_scheduler.args.max_lr",
        r"follows OneCycleLR: (?:set (\S+) instead)?",
        "train.py -r $FOLDER/checkpoint-epoch1.pth",
        "--lr 0.1",
        "--set $1=0.1",
        before=f"$C --run_id $RUN --set 'lr_scheduler={CYCLE}'",
        marks=fault(strict=True, reason="a schedule under way takes no other"),
    ),
    case(
        "max_lr-of-a-file",
        "set lr_scheduler.args.max_lr",
        r"(?:set (\S+) instead|run folder)",
        "train.py -c commands/cycle.json",
        "",
        "--set lr_scheduler.args.max_lr=0.1",
        marks=fault(strict=True, reason='a file whose name begins with "command" counts as the command line'),
    ),
    case(
        "total_steps",
        "leave total_steps",
        "leave (total_steps), epochs",
        "$C",
        f"--set 'lr_scheduler={CYCLE[:-2]}, \"total_steps\": 9}}}}'",
        f"--set 'lr_scheduler={CYCLE}'",
    ),
    case(
        "interval",
        "leave total_steps",
        'set "(interval)"',
        f"$C --set 'lr_scheduler={CYCLE[:-2]}, \"total_steps\": 4}}}}'",
        then="--set lr_scheduler.$1=step",
    ),
    case(
        "plateau",
        "ReduceLROnPlateau judges epochs",
        'epochs: "(interval)": "(epoch)"',
        """$C --set 'lr_scheduler={"type": "ReduceLROnPlateau", "interval": "step"}'""",
        then="--set lr_scheduler.$1=$2",
    ),
    case(
        "mode",
        'set its "mode"',
        'set its "(mode)" to "(min)"',
        """$C --set 'lr_scheduler={"type": "ReduceLROnPlateau", "args": {"mode": "max"}}'""",
        then="--set lr_scheduler.args.$1=$2",
    ),
    case(
        "by",
        "set trainer.monitor, such as",
        'such as "(.*)"',
        "$C --set trainer.early_stop=2",
        "--set trainer.monitor=off",
        "--set 'trainer.monitor=$1'",
    ),
    case(
        "by-without-validation",
        "set trainer.monitor, such as",
        'such as "(.*)"',
        "$C --set trainer.early_stop=2 --set data_loader.args.validation_split=0",
        "--set trainer.monitor=off",
        "--set 'trainer.monitor=$1'",
        marks=fault(strict=True, reason="without validation data there is no val_loss"),
    ),
    case(
        "lbfgs",
        "take the trainer of examples/lbfgs.py",
        r"of examples/(lbfgs\.py)",
        """$C --set 'optimizer={"type": "LBFGS"}'""",
        then="""python $1 -c short.json --set 'optimizer={"type": "LBFGS"}'""",
    ),
    case(
        "drop_last",
        "with drop_last?",
        r"with (drop_last)\?",
        "$C --bs 300 --set data_loader.args.validation_split=0.95",
        "--set data_loader.args.drop_last=true",
        " ",
    ),
    case(
        "workers",
        "num_workers 0 shows",
        "(num_workers) (0) shows",
        "$C --set data_loader.type=Frail",
        "--set data_loader.args.num_workers=1",
        "--set data_loader.args.$1=$2",
    ),
    case(
        "workers-that-prefetch",
        "num_workers 0 shows",
        "(num_workers) (0) shows",
        "$C --set data_loader.type=Frail --set data_loader.args.prefetch_factor=2",
        "--set data_loader.args.num_workers=1",
        "--set data_loader.args.$1=$2",
        marks=fault(strict=True, reason="torch takes no prefetch_factor without workers"),
    ),
    case(
        "test-data",
        "a loader of its own: test_data_loader",
        "its own: (test_data_loader)",
        "test.py -r $FOLDER",
        then="""--set '$1={"type": "DigitsDataLoader", "args": {"training": false}}'""",
        before="""$C --run_id $RUN --set trainer.monitor=off --set 'data_loader={"type": "Bare"}'""",
    ),
    case(
        "valid-data",
        "no valid_data_loader",
        "no (valid_data_loader), and",
        "test.py --split valid -r $FOLDER",
        then="""--set '$1={"type": "DigitsDataLoader"}'""",
        before="""$C --run_id $RUN --set trainer.monitor=off --set 'data_loader={"type": "Bare"}'""",
    ),
    slip(
        "split",
        "give a share below 1",
        "give a (share) below 1",
        "data_loader.args.validation_split=1.0",
        "data_loader.args.validation_split=0.99",
    ),
    slip(
        "split-number",
        "give a share below 1",
        "number below (4000)",
        "data_loader.args.validation_split=5000",
        "data_loader.args.validation_split=3999",
    ),
    slip(
        "split-nothing",
        "give a share below 1",
        r"validation_split (\S+) of \S+ leaves 0 samples(: give a share below 1)?",
        "data_loader.args.validation_split=0.0001",
        "data_loader.args.validation_split=$1",
        marks=fault(strict=True, reason="it is below 1, and holds no sample"),
    ),
    slip("loss", "name one of model/loss.py", "one of (model/loss.py)", "loss=null", "loss=nll_loss"),
    slip(
        "two-metrics",
        "give one a name",
        "one a (name) of",
        """'metrics=["accuracy", "accuracy"]'""",
        """'metrics=["accuracy", {"type": "accuracy", "$1": "other"}]'""",
    ),
    slip(
        "metric-name",
        'give the metric a "name"',
        'a "(name)" of',
        """'metrics=[{"type": "accuracy", "name": "lr"}]'""",
        """'metrics=[{"type": "accuracy", "$1": "other"}]'""",
    ),
    slip(
        "metric",
        "no metric is called",
        "there are: .*(val_loss)",
        "'trainer.monitor=min val_los'",
        "'trainer.monitor=min $1'",
    ),
    slip("key", ": did you mean {}?", r"mean (\S+)\?", "trainer.epoch=1", "$1=1"),
    slip("section", ": did you mean {}?", r"mean (\S+)\?", "trainr.epochs=1", "$1.epochs=1"),
    slip("type", ": did you mean {}?", r"mean '(\S+)'\?", "arch.type=MnistModl", "arch.type=$1"),
    slip(
        "argument", ": did you mean {}?", r"mean '(\S+)'\?", "data_loader.args.shuffel=true", "data_loader.args.$1=true"
    ),
    slip(
        "unknown",
        "is unknown: did you mean",
        r"mean '(\S+)'\?",
        """'lr_scheduler={"typ": "StepLR", "args": {"step_size": 1}}'""",
        """'lr_scheduler={"$1": "StepLR", "args": {"step_size": 1}}'""",
    ),
    slip(
        "misplaced",
        "is unknown: did you mean",
        r"mean optimizer\.(\S+)\.lr\?",
        """'optimizer={"type": "SGD", "lr": 0.1}'""",
        """'optimizer={"type": "SGD", "$1": {"lr": 0.1}}'""",
    ),
    slip("given", "leave it out", "(leave it out)", "optimizer.args.params=1"),
    slip(
        "needed",
        "{} needs {}",
        r"StepLR needs '(\S+)'",
        """'lr_scheduler={"type": "StepLR"}'""",
        """'lr_scheduler={"type": "StepLR", "args": {"$1": 1}}'""",
    ),
    slip("there-are", "there are: {}", r"there are: (\w+)", "arch.type=Nothing", "arch.type=$1"),
    slip(
        "pattern",
        "matches no parameter",
        r"there are: (\S+),",
        """'arch.freeze=["convv.*"]'""",
        """'arch.freeze=["$1"]'""",
    ),
]


@pytest.mark.parametrize("case", [*GOING_ON, *STARTING, *SETTING])
def test_what_it_says_helps(project, request, case):
    name = f"it's {request.node.callspec.id}"

    def filled(line):
        line = line.replace("$C", "train.py -c short.json").replace("$STOP", "--set trainer.early_stop")
        for mark, text in (("$RUN", name), ("$FOLDER/", f"{ONE[:-3]}{name}/"), ("$FOLDER", f"{ONE[:-3]}{name}")):
            rest = r"([\w.-]*)" if mark.endswith("/") else "()"
            line = re.sub(re.escape(mark) + rest, lambda found, text=text: shlex.quote(text + found[1]), line)
        return line

    if case.before:
        typed(project, filled(case.before))
    said = typed(project, filled(f"{case.words} {case.wrong}"))
    found = re.search(case.says, said.text)
    assert found, said.text
    if None in found.groups():  # nothing that would be wrong here
        return
    then = filled(case.then)
    for i, group in enumerate(found.groups(), 1):
        then = then.replace(f"${i}", group)
    whole = then.startswith("python ")
    helped = typed(project, then if whole else f"{filled(case.words)} {then}")
    assert helped.code == case.code and re.search(case.done, helped.text), helped.text
    assert whole or case.code or not re.search(case.says, helped.text), helped.text


@pytest.mark.parametrize(
    "where, script, options",
    [
        (".", "my train.py", "--run_id \"a 'named' $RUN\""),
        ("..", "train.py", "--run_id $(date)"),
        ("loose weights", "my train.py", "--set 'name=an \"experiment\"; or two'"),
        pytest.param(
            "saved/models/Digits_LeNet",
            "train.py",
            "--run_id=-dashed",
            marks=fault(strict=True, reason="a path that begins with a dash is taken for an option"),
        ),
        pytest.param(
            ".",
            "train.py",
            "--set 'name=no\u00a0break'",
            marks=fault(strict=True, reason="a character that is no letter is printed as another"),
        ),
    ],
    ids=["script", "above", "below", "dash", "space"],
)
def test_commands_work_where_they_are_printed(project, where, script, options):
    folder = project / where
    said = typed(
        folder, f"{shlex.quote(str(project / script))} -c {shlex.quote(str(project / 'short.json'))} {options}"
    )
    assert said.code == 0, said.text
    for what, done in (("test", "test data, 1,000 samples"), ("continue", r"\n +3 +\d")):
        (line,) = re.findall(f"{what}: +(python .*)", said.text)
        helped = typed(folder, line)
        assert helped.code == 0 and re.search(done, helped.text), helped.text
    assert ("my train.py" in line) == (script == "my train.py")


@pytest.mark.parametrize(
    "where",
    [".", pytest.param("loose weights", marks=fault(strict=True, reason="config.json is in the project's root"))],
)
def test_what_to_train_is_there(project, where):
    train = shlex.quote(str(project / "train.py"))
    (options,) = re.findall("what to train: (.*), or", typed(project / where, train).text)
    helped = typed(project / where, f"{train} {options} {QUICK} --check")
    assert helped.code == 0, helped.text


@pytest.mark.parametrize(
    "file, content, fields",
    [
        ("nameless.json", {"trainer": {"epochs": 1, "len_epoch": 2}}, "name"),
        ("bare.json", {"name": "Bare", "trainer": {"epochs": 1, "len_epoch": 2}}, "arch"),
        pytest.param(
            "commands/nameless.json",
            {"trainer": {"epochs": 1, "len_epoch": 2}},
            "name",
            marks=fault(strict=True, reason="the path is relative to the file"),
        ),
        pytest.param(
            "config.json",
            {"trainer": {"epochs": 1, "len_epoch": 2}},
            "name",
            marks=fault(strict=True, reason="it is that file itself"),
        ),
    ],
    ids=["name", "arch", "elsewhere", "itself"],
)
def test_a_base_gives_what_is_missing(project, file, content, fields):
    path = project / file
    before = path.read_text() if path.exists() else None
    try:
        path.write_text(json.dumps(content))
        said = typed(project, f"train.py -c {file} --check")
        (base,) = re.findall(rf" {fields} is missing(?:; (.*) takes it from there)?", said.text)
        if not base and path.parent / "config.json" == path:  # nothing that would be wrong here
            return
        path.write_text(json.dumps({**content, **json.loads(f"{{{base}}}")}))
        helped = typed(project, f"train.py -c {file} --check")
        assert helped.code == 0, helped.text
    finally:
        path.write_text(before) if before else path.unlink()


@pytest.mark.parametrize(
    "right, wrong, says, follow",
    [
        (
            '"seed"',
            '// a seed\n"seed"',
            "JSON has no comments: (delete it)",
            lambda text: text.replace("// a seed\n", ""),
        ),
        (
            '"seed"',
            '// a seed\n"seed"',
            r"keep it under a key of your own \((.*): …\)",
            lambda text: text.replace("// a seed", '"comment": "a seed",'),
        ),
        ("false", "False", "write true, (false) and null", lambda text: text.replace("False", "false")),
        ('"seed"', "'seed'", "strings and keys stand in (double quotes)", lambda text: text.replace("'", '"')),
        ("1\n    }", "1,\n    }", "a (comma before the closing)", lambda text: text.replace("1,\n    }", "1\n    }")),
        ("1\n    }\n}", "1\n    }\n", "a (closing brace) or", lambda text: text + "}"),
        ('"Digits_LeNet"', '"Digits_L\xe9Net"', "save it as (UTF-8)", None),
    ],
    ids=["comment", "own-key", "words", "quotes", "comma", "brace", "encoding"],
)
def test_a_file_that_is_no_json_is_mended_as_it_says(project, right, wrong, says, follow):
    text = (project / "short.json").read_text()
    assert right in text
    file = project / "wrong.json"
    file.write_text(text.replace(right, wrong), encoding="utf-8" if follow else "latin-1")
    said = typed(project, "train.py -c wrong.json --check")
    assert said.code == 2 and re.search(says, said.text), said.text
    file.write_text(follow(file.read_text()) if follow else file.read_text(encoding="latin-1"), encoding="utf-8")
    helped = typed(project, "train.py -c wrong.json --check")
    assert helped.code == 0, helped.text


def test_whole_checkpoints_beside_a_damaged_one_continue(project):
    folder = project / "saved" / "models" / "Digits_LeNet" / "damaged"
    shutil.copytree(project / ONE, folder)
    damaged = folder / "checkpoint-epoch1.pth"
    damaged.write_bytes(damaged.read_bytes()[:-9] + bytes(9))
    said = typed(project, f"train.py -r {damaged.relative_to(project)}")
    assert said.code == 4
    names = re.findall("whole checkpoints beside it: (.*)", said.text)[0].split(", ")
    assert names == ["checkpoint-epoch2.pth", "model_best.pth"]
    for name in names:
        helped = typed(project, f"train.py -r {shlex.quote(str(folder / name))} --set trainer.epochs=3")
        assert helped.code == 0, helped.text


def test_a_checkpoint_that_is_moved_to_a_run_folder_continues(project):
    assert "move it to one" in typed(project, "train.py -r 'loose weights/w.pth'").text
    folder = project / "saved" / "models" / "Digits_LeNet" / "moved here"
    folder.mkdir()
    shutil.copy(project / ONE / "config.json", folder)
    shutil.copy(project / "loose weights" / "w.pth", folder)
    helped = typed(project, f"train.py -r {shlex.quote(str(folder / 'w.pth'))} --set trainer.epochs=3")
    assert helped.code == 0, helped.text


def test_a_run_goes_on_once_its_data_can_be_read(project):
    (project / "broken").touch()
    run = "train.py -c short.json --set data_loader.type=Frail --set trainer.epochs=4"
    said = typed(project, run)
    (project / "broken").unlink()
    assert said.code == 3 and "the disk is gone" in said.text, said.text
    (line,) = re.findall("resume: (.*)", said.text)
    helped = typed(project, line)
    assert helped.code == 0 and re.search(r"\n +4 ", helped.text), helped.text


def test_a_run_in_use_is_free_once_the_other_is_stopped(project):
    script = "import pathlib, utils.run_folder as f; lock = f.own(pathlib.Path('.')); print(1, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=project / ONE,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "1\n"
        said = typed(project, f"train.py -r {ONE}")
        pid = re.findall(r"in use by pid (\d+) on .*: stop it first, or start another run", said.text)
        assert pid == [str(process.pid)], said.text
        assert typed(project, "train.py -c short.json").code == 0
        process.terminate()
    finally:
        process.kill()
        process.communicate()
    assert typed(project, f"train.py -r {ONE}").code == 0


@pytest.mark.parametrize(
    "where",
    [
        ".",
        pytest.param("loose weights", marks=fault(strict=True, reason="git's path is relative to the current folder")),
    ],
)
def test_missing_data_is_restored_as_it_says(project, where):
    for words in ("init -q", "add data", "-c user.name=x -c user.email=x@x commit -qm x"):
        subprocess.run(["git", *words.split()], cwd=project, capture_output=True)
    (project / "data" / "mnist5k.npz").unlink()
    train = f"{shlex.quote(str(project / 'train.py'))} -c {shlex.quote(str(project / 'short.json'))} --check"
    try:
        (line,) = re.findall("`(git .*)` restores it", typed(project / where, train).text)
        subprocess.run(shlex.split(line), cwd=project / where, capture_output=True)
        helped = typed(project / where, train)
        assert helped.code == 0, helped.text
    finally:
        shutil.copy(ROOT / "data" / "mnist5k.npz", project / "data")


@fault(strict=True, reason="git restores data, and another folder was asked for")
def test_git_is_not_to_restore_another_folder(project):
    assert "git " not in typed(project, "train.py -c short.json --set data_loader.args.data_dir=elsewhere").text


def classic_checkpoint(folder, path):
    """A checkpoint of LeNet as the classic template wrote it."""
    module = types.ModuleType("parse_config")
    module.ConfigParser = type("ConfigParser", (), {"__module__": "parse_config", "__qualname__": "ConfigParser"})
    config = module.ConfigParser()
    config._config = json.loads((folder / "short.json").read_text())
    weights = torch.load(folder / ONE / "model_best.pth", weights_only=True)["state_dict"]
    state = {"arch": "MnistModel", "epoch": 2, "state_dict": weights, "optimizer": {}, "config": config}
    before = sys.modules["parse_config"]
    sys.modules["parse_config"] = module
    try:
        torch.save(state, path)
    finally:
        sys.modules["parse_config"] = before


@pytest.mark.parametrize(
    "where, name",
    [
        (".", "../old.pth"),
        pytest.param(".", "old.pth", marks=fault(strict=True, reason="the path is not quoted")),
        pytest.param("..", "../old.pth", marks=fault(strict=True, reason="tools/ is in the project's root")),
    ],
    ids=["root", "quotes", "elsewhere"],
)
def test_a_classic_checkpoint_is_converted_as_it_says(project, where, name):
    old = (project / name).resolve()
    new = project / where / "NEW.pth"
    new.unlink(missing_ok=True)
    classic_checkpoint(project, old)
    said = typed(project / where, f"{shlex.quote(str(project / 'test.py'))} -r {shlex.quote(str(old))}")
    (line,) = re.findall(r"convert it:\n +(python .*)", said.text)
    converted = typed(project / where, line)
    assert converted.code == 0 and new.exists(), converted.text
    (line,) = re.findall("test: (python .*)", converted.text)
    helped = typed(project / where, line)
    assert helped.code == 0 and "test data, 1,000 samples" in helped.text, helped.text


@pytest.mark.parametrize(
    "where, name",
    [
        (".", "new.pth"),
        pytest.param(".", "a new.pth", marks=fault(strict=True, reason="the path is not quoted")),
        pytest.param("..", "new.pth", marks=fault(strict=True, reason="test.py is in the project's root")),
    ],
    ids=["root", "quotes", "elsewhere"],
)
def test_what_is_converted_is_tested_as_it_says(project, where, name):
    classic_checkpoint(project, project / "old.pth")
    (project / where / name).unlink(missing_ok=True)
    words = (project / "tools" / "convert_checkpoint.py", project / "old.pth", name)
    (line,) = re.findall("test: (python .*)", typed(project / where, shlex.join(map(str, words))).text)
    helped = typed(project / where, line)
    assert helped.code == 0, helped.text


@pytest.mark.skipif(not (ROOT / "tools" / "new_project.py").exists(), reason="a project made by it has it no more")
@pytest.mark.parametrize(
    "name", ["plain", pytest.param("it's new", marks=fault(strict=True, reason="the path is not quoted"))]
)
def test_a_new_project_trains_as_it_says(tmp_path, name):
    made = typed(tmp_path, shlex.join([str(ROOT / "tools" / "new_project.py"), name]))
    ((line, train),) = re.findall(r"\n  (cd .*)\n  (python .*)", made.text)
    _, folder = shlex.split(line)
    helped = typed(Path(folder), f"{train} {QUICK} --check")
    assert helped.code == 0, helped.text


def test_a_run_of_this_process_is_free_once_it_is_finished(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    one = tiny.build(config, run_id="one")
    one._save_checkpoint(1)
    with pytest.raises(UserError, match="in use by this process: finish its run first"):
        run_folder.own(one.checkpoint_dir)
    one.train()
    tiny.train(
        {**config, "trainer": {**config["trainer"], "epochs": 2}}, resume=one.checkpoint_dir / "checkpoint-epoch1.pth"
    )


def total(output, target):
    return nn.functional.cross_entropy(output, target, reduction="sum")


def test_a_loss_that_is_meant_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tiny, "total", total, raising=False)
    config = tiny.settings(tmp_path, loss="total", trainer__epochs=1)
    tiny.train(config)
    (advice,) = re.findall(r"give the loss an attribute (in_batch) = (True)", capfd.readouterr().out)
    capfd.readouterr()
    monkeypatch.setattr(total, advice[0], advice[1] == "True", raising=False)
    tiny.train(config)
    assert "in_batch" not in capfd.readouterr().out


def test_a_model_in_evaluation_mode_is_put_back(tmp_path, capfd):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=2), run_id="one")
    trainer.model.eval()
    trainer.train()
    assert "trains in it: model.train() would change that" in capfd.readouterr().out
    capfd.readouterr()
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1), run_id="two")
    trainer.model.eval()
    trainer.model.train()
    trainer.train()
    assert "model.train()" not in capfd.readouterr().out


class Overrides(Trainer):
    def _save_checkpoint(self, epoch, save_best=False):
        raise AssertionError


class Texts(Trainer):
    def _forward(self, batch):
        output = self.model(torch.ones(len(batch), 6))
        return self.criterion(output, torch.zeros(len(batch), dtype=torch.int64)), output, torch.zeros(len(batch))


class CountedTexts(Texts):
    def batch_size_of(self, batch):
        return len(batch)


def train_on(kind, tmp_path, batches=None):
    trainer = tiny.build(
        tiny.settings(tmp_path, trainer__epochs=1, trainer__monitor="off", metrics=[]), trainer_class=kind
    )
    if batches:
        trainer.data_loader, trainer.valid_data_loader = batches, None
        trainer.len_epoch = len(batches)
    trainer.train()


class Endless(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(9, 6))


class Counted(Endless):
    def __len__(self):
        return 9


class Lazy(nn.Module):
    def __init__(self, batch=None):
        super().__init__()
        self.fc = nn.LazyLinear(3)
        if batch is not None:
            self.fc(batch)


def optimizer_of(model, tmp_path):
    return init_optimizer(ConfigParser(tiny.settings(tmp_path)), model)


TEXTS = DataLoader(["one", "two", "three", "four"], batch_size=2)
OTHERS = DistributedSampler(range(9), 2, 0)
IN_CODE = {
    r"_save_checkpoint would never be called: leave it out": (
        lambda path: train_on(Overrides, path),
        lambda path: train_on(Trainer, path),
    ),
    r"let the trainer's batch_size_of\(batch\) say": (
        lambda path: train_on(Texts, path, TEXTS),
        lambda path: train_on(CountedTexts, path, TEXTS),
    ),
    "give it a batch in its constructor": (
        lambda path: optimizer_of(Lazy(), path),
        lambda path: optimizer_of(Lazy(torch.ones(2, 6)), path),
    ),
    "give it a __len__": (
        lambda _: len(BaseDataLoader(Endless(), 4, False, 0, 0)),
        lambda _: len(BaseDataLoader(Counted(), 4, False, 0, 0)),
    ),
    "leave the DistributedSampler out": (
        lambda _: BaseDataLoader(range(9), 4, False, 0, 0, sampler=OTHERS),
        lambda _: BaseDataLoader(range(9), 4, False, 0, 0),
    ),
    "beside a sampler of your own: set it to 0": (
        lambda _: tiny.TinyLoader(kind="weighted", validation_split=0.2),
        lambda _: tiny.TinyLoader(kind="weighted", validation_split=0),
    ),
    "beside a batch_sampler: set them to false": (
        lambda _: tiny.TinyLoader(kind="batches", validation_split=0, drop_last=True),
        lambda _: tiny.TinyLoader(kind="batches", validation_split=0, drop_last=False),
    ),
}


@pytest.mark.parametrize("says", IN_CODE)
def test_what_it_says_of_code_helps(tmp_path, says):
    wrong, right = IN_CODE[says]
    with pytest.raises(UserError, match=says):
        wrong(tmp_path / "wrong")
    right(tmp_path / "right")


#: What a suggestion looks like in the code.
SUGGESTION = re.compile(
    r"(?:^|[ (:])-(?:-[a-z]|[cr] )|python |continue:|resume:|did you mean|in_batch|would change|restores|takes it from|"
    r"\b(?:set|raise|leave|give|use|try|start|choose|write|take|move|convert|keep|delete|say|name one|stop it|finish|"
    r"let the|there are|needs|stand in double quotes|a comma before|is missing)\b"
)
#: Those that are followed in functions of their own.
FOLLOWED = (
    *(
        "takes it from there",
        "JSON has no comments",
        "write true, false and null",
        "in double quotes",
        "a comma before",
    ),
    *("a closing brace", "save it as UTF-8", "stop it first, or start", "finish its run first", "restores it, or set"),
    *(
        "tools/convert_checkpoint.py",
        "in_batch = True",
        "model.train() would change",
        "would never be called: leave it out",
    ),
    *(
        "batch_size_of(batch) say",
        "give it a batch in its constructor",
        "give it a __len__",
        "leave the DistributedSampler",
    ),
    *("beside a sampler of your own: set it to 0", "beside a batch_sampler: set them to false"),
)
#: What only looks like one: help, origins, and what is told beside a suggestion.
NONE = (
    *("checkpoint or run folder; with -c", "set any key of the config", "try everything on one batch", "GPUs to use"),
    *("command line (--set", "-r is empty", "-r auto starts a new run", "these start afresh", "could not write"),
    *(
        "use newer code",
        "let no other process write",
        "(needs about",
        "--run_id {}: expected",
        "trainer.epochs is missing",
    ),
)


def literals():
    """The texts of the core, with {} for what is put in."""
    for path in [*ROOT.glob("*.py"), *(path for part in SHARED + OWN for path in (ROOT / part).glob("*.py"))]:
        tree = ast.parse(path.read_text())
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs | parts:
                yield node.value


def test_every_suggestion_is_followed():
    texts = [text for text in literals() if " " in text.strip()]
    known = [param.values[0].of for param in (*GOING_ON, *STARTING, *SETTING)] + [*FOLLOWED, *NONE]
    new = [text for text in texts if SUGGESTION.search(text) and not any(piece in text for piece in known)]
    assert not new, f"type what these suggest in a test here: {new}"
    gone = [piece for piece in known if not any(piece in text for text in texts)]
    assert not gone, f"nothing says this any more: {gone}"
