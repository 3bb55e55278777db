"""What the program suggests is typed here, literally: each suggestion is brought about, followed,
and has to help.

A command takes a quarter of a second: it runs in a forked process that has torch already, but none
of the project.
"""

import ast
import importlib
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
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

import forked
import ranks
import tiny
from base import BaseDataLoader
from machinery import distributed
from machinery.checkpoints import run_folder
from machinery.checks.processes import check_processes
from machinery.config.optimization import init_optimizer
from machinery.errors import UserError
from parse_config import ConfigParser
from projects import OWN, ROOT, SHARED, copy_template
from trainer import Trainer

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


class Functional(Norm):
    """Its BatchNorm is no layer that can be seen."""

    def forward(self, x):
        norm = self.norm
        x = nn.functional.batch_norm(
            self.fc(x.flatten(1)), norm.running_mean, norm.running_var, training=self.training
        )
        return x.log_softmax(1)


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
        if FrailImages.calls > 12 and project_path("broken").exists():
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

parser = argparse.ArgumentParser()
trainer = train.build(ConfigParser.from_args(parser, train.OPTIONS, partial=False))
other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
schedulers = torch.optim.lr_scheduler
trainer.other_scheduler = schedulers.OneCycleLR(other, 0.1, total_steps=trainer.epochs)
trainer.train()
"""
#: Trains without reading a command line, as in a notebook.
SWEEP = """
from parse_config import ConfigParser
from train import main

main(ConfigParser("short.json", run_id="sweep"))
"""
#: Trains beside others that keep the cores busy.
CROWDED = """
import os
import train

os.getloadavg = lambda: (99.0, 99.0, 99.0)
train.command()
"""
#: A script in a folder of its own.
AWAY = """
import sys

sys.path.insert(0, "{}")
import train

train.command()
"""
CYCLE = '{"type": "OneCycleLR", "args": {"max_lr": 0.01}}'
LEAP = '{"type": "StepLR", "args": {"step_size": 1, "gamma": 1e30}}'
ONE = "saved/models/Digits_LeNet/one"
QUICK = "--set trainer.epochs=1 --set trainer.len_epoch=2 --set trainer.tensorboard=false"


class Said(NamedTuple):
    code: int
    text: str


def _imported(folder):
    """Import the project of a folder in place of this one, in this process."""
    sys.dont_write_bytecode = False  # which spares the next command the compiling
    os.chdir(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT]:
        del sys.modules[name]
    own = (str(ROOT), str(ROOT / "tests" / "helpers"))
    sys.path[:] = [str(folder), *(path for path in sys.path if path not in own)]
    importlib.import_module("train")
    importlib.import_module("test")
    for name in ("train", "test"):  # a command runs it
        del sys.modules[name]


def _python(words, cwd):
    """What `python WORDS` does, in this process."""
    os.chdir(cwd)
    place = str(Path(words[0]).resolve().parent)
    if place != sys.path[0]:  # a script that has to find the project
        for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT]:
            del sys.modules[name]
        sys.path[0] = place
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


#: The process that has imported the project, while there is one.
PREPARED = []


def typed(cwd, line):
    """Type a command in a folder; its exit code and what it prints."""
    words = shlex.split(line)
    if "trainer.threads=2" in words:  # a fork of a process that has had threads may hang with some
        script = [sys.executable, *words[words[0] == "python" :]]
        done = subprocess.run(
            script, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return Said(done.returncode, done.stdout)
    output = cwd / ".said"
    output.unlink(missing_ok=True)
    code = PREPARED[-1].run(_python, words[words[0] == "python" :], str(cwd), output=output)
    return Said(code, output.read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in a folder that wants quotes, with a finished run of two epochs of two batches."""
    folder = copy_template(
        tmp_path_factory.mktemp("suggestions") / "one's project",
        (*SHARED, *OWN, "tools", "examples"),
    )
    for name, code in (
        ("model/model", MODELS),
        ("model/loss", LOSSES),
        ("data_loader/data_loaders", LOADERS),
    ):
        with open(folder / f"{name}.py", "a") as file:
            file.write(code)
    config = json.loads((folder / "config.json").read_text())
    config["n_gpu"] = 0
    config["trainer"] |= {
        "tensorboard": False,
        "len_epoch": 2,
        "epochs": 2,
        "verbosity": 1,
        "log_step": 1,
    }
    (folder / "short.json").write_text(json.dumps(config, indent=4))
    (folder / "commands").mkdir()
    (folder / "commands" / "cycle.json").write_text(
        json.dumps({**config, "lr_scheduler": json.loads(CYCLE)})
    )
    train = (folder / "train.py").read_text()
    (folder / "my train.py").write_text(train)
    (folder / "two.py").write_text(TWO)
    (folder / "sweep.py").write_text(SWEEP)
    (folder / "crowded.py").write_text(CROWDED)
    for script in (folder / "its scripts" / "own.py", folder.parent / "apart" / "far.py"):
        script.parent.mkdir()
        script.write_text(AWAY.format(folder))
    PREPARED.append(forked.Prepared(_imported, folder))
    assert typed(folder, "train.py -c short.json --run_id one").code == 0
    (folder / "loose weights").mkdir()
    shutil.copy(folder / ONE / "model_best.pth", folder / "loose weights" / "w.pth")
    yield folder
    PREPARED.pop().close()


class Case(NamedTuple):
    """A command that suggests something, and what is done then; short forms are in `MEANS`."""

    #: A piece of the suggestion as it stands in the code.
    of: str
    #: What it looks like; groups are what is to be typed.
    says: str
    #: The command, and what of it the suggestion replaces.
    words: str
    wrong: str = ""
    #: What is typed in place of it, $1 being the first group; or a whole command.
    then: str = "$1"
    #: A command of before.
    before: str = ""
    #: What the second command ends with, and prints.
    code: int = 0
    done: str = ""


MEANS = {
    "$NEW": "$C --run_id $RUN",
    "$CYCLE": f"--set 'lr_scheduler={CYCLE}'",
    "$C": "train.py -c short.json",
    "$FLAT": "--set optimizer.args.lr=0 --set 'trainer.monitor=max val_loss'",
    "$STOP": "--set trainer.early_stop",
    "$DATA": "--set data_loader.args",
    "$SPLIT": "data_loader.args.validation_split",
    "$OTHER": '{"type": "accuracy", "$1": "other"}',
    "$STEP": '"StepLR", "args": {"step_size": 1}',
    "$SGD": '{"type": "SGD", ',
    "$MAX": CYCLE[:-2],
    "$FOUR": '"total_steps": 4}',
    "$PLATEAU": 'lr_scheduler={"type": "ReduceLROnPlateau"',
    "$ONE": ONE,
}


def filled(line, name):
    """A command whose short forms are written out; $RUN is a name of the test's own, $FOLDER that
    run's folder."""
    for short, long in MEANS.items():
        line = line.replace(short, long)
    names = {"RUN": name, "FOLDER": f"{Path(ONE).parent}/{name}"}
    return re.sub(
        r"\$(RUN|FOLDER)(/[\w.-]+)?",
        lambda found: shlex.quote(names[found[1]] + (found[2] or "")),
        line,
    )


def case(name, *values, **fields):
    return pytest.param(Case(*values, **fields), id=name)


def goes_on(name, words, done, **fields):
    """What is said at the end of a run."""
    return case(name, "continue: {}", "continue: (.*)", words, done=done, **fields)


def resumes(name, words, **fields):
    """What is said when a run has stopped."""
    return case(name, "resume: {}", "resume: (.*)", words, **fields)


def new_run(name, setting, before="", of="start a new run with -c and -r"):
    """A setting that a run under way cannot take."""
    run = "$FOLDER" if before else "$ONE"
    wrong, then = f"-r {run}/checkpoint-epoch1.pth {setting}", f"$1 short.json $2 {run} {setting}"
    return case(
        name, of, "start a new run with (-c) and (-r)", "train.py", wrong, then, before=before
    )


def slip(name, of, says, wrong, then=""):
    """A mistake in what is set."""
    return case(
        name,
        of,
        says,
        "$C",
        f"--set {shlex.quote(wrong)}",
        f"--set {shlex.quote(then)}" if then else "",
    )


def lines_of(table):
    """The lines of a table; one that begins with a space goes on with the line before."""
    return table.strip().replace("\n ", " ").splitlines()


#: Mistakes: a name, a piece of the code, what is said, what is set, and what instead.
SLIPS = r"""
split | leaves both some | a (share) or number that | $SPLIT=1.0 | $SPLIT=0.99
split-number | leaves both some | a share or (number) that | $SPLIT=5000 | $SPLIT=3999
split-nothing | leaves both some | a (share) or number that | $SPLIT=0.0001 | $SPLIT=0.01
data | set data_loader.args.data_dir | or set (\S+) | data_loader.args.data_dir=elsewhere | $1=data
loss | name one of model/loss.py | one of (model/loss.py) | loss=null | loss=nll_loss
two-metrics | give one a name | one a (name) of | metrics=["accuracy", "accuracy"]
 | metrics=["accuracy", $OTHER]
metric-name | give the metric a "name" | a "(name)" of
 | metrics=[{"type": "accuracy", "name": "lr"}] | metrics=[$OTHER]
metric | no metric is called | there are: .*(val_loss) | trainer.monitor=min val_los
 | trainer.monitor=min $1
key | : did you mean {}? | mean (\S+)\? | trainer.epoch=1 | $1=1
item | : did you mean {}? | mean (\S+)\? | metrics[1].args.k=2 | $1.args.k=2
section | : did you mean {}? | mean (\S+)\? | trainr.epochs=1 | $1.epochs=1
type | : did you mean {}? | mean '(\S+)'\? | arch.type=MnistModl | arch.type=$1
argument | : did you mean {}? | mean '(\S+)'\? | data_loader.args.shuffel=true
 | data_loader.args.$1=true
unknown | is unknown: did you mean | mean '(\S+)'\? | lr_scheduler={"typ": $STEP}
 | lr_scheduler={"$1": $STEP}
misplaced | is unknown: did you mean | \.(\S+)\.lr\? | optimizer=$SGD"lr": 0.1}
 | optimizer=$SGD"$1": {"lr": 0.1}}
given | leave it out | (leave it out) | optimizer.args.params=1 |
total_steps | leave total_steps | leave (total_steps), | lr_scheduler=$MAX, "total_steps": 9}}
 | lr_scheduler=$MAX}}
interval | leave total_steps | set "(interval)" | lr_scheduler=$MAX, $FOUR}
 | lr_scheduler=$MAX, $FOUR, "$1": "step"}
plateau | ReduceLROnPlateau judges epochs | "(\S+)": "(epoch)" | $PLATEAU, "interval": "step"}
 | $PLATEAU, "$1": "$2"}
mode | set its "mode" | "(mode)" to "(min)" | $PLATEAU, "args": {"mode": "max"}}
 | $PLATEAU, "args": {"$1": "$2"}}
need | {} needs {} | needs '(.*)' | lr_scheduler={"type": "StepLR"}
 | lr_scheduler={"type": "StepLR", "args": {"$1": 1}}
there-are | there are: {} | there are: (\w+) | arch.type=Nothing | arch.type=$1
pattern | matches no parameter | there are: (\S+), | arch.freeze=["convv.*"] | arch.freeze=["$1"]
"""


IDLE, ONE_SAMPLE = "raise trainer.", "a batch of one sample"
GOING_ON = [
    goes_on("continue", "$NEW", r"\n +3 +(val +)?\d"),
    case("test", "test:     {}", "test: +(.*)", "$NEW", done="test data, 1,000 samples"),
    goes_on("early", "$NEW --set trainer.epochs=4 $FLAT $STOP=1", r"\n +3 "),
    goes_on("early-in-the-last-epoch", "$NEW $FLAT $STOP=1", r"\n +3 "),
    goes_on(
        "early-by-a-lower-patience",
        "train.py -r $FOLDER $STOP=1 --set trainer.epochs=8",
        r"\n +5 ",
        before="$NEW --set trainer.epochs=4 $FLAT",
    ),
    goes_on(
        "early-of-fixed-length",
        "$NEW --set trainer.epochs=4 $CYCLE --set 'trainer.monitor=max val_loss' $STOP=1",
        r"\n +3 ",
    ),
    goes_on("program", "sweep.py", "resuming from"),
    case(
        "idle", IDLE, r"\); raise (\S+) to", "train.py -r $FOLDER", then="--set $1=3", before="$NEW"
    ),
    case(
        "idle-early",
        IDLE,
        r"stopped early; raise (\S+) to",
        "train.py -r $FOLDER",
        then="--set $1=2",
        before="$NEW --set trainer.epochs=4 $FLAT $STOP=1",
        done=r"\n +3 ",
    ),
    case(
        "idle-early-in-the-last-epoch",
        IDLE,
        r"stopped early; raise (\S+) and (\S+) to",
        "train.py -r $FOLDER",
        then="--set $1=2 --set $2=3",
        before="$NEW $FLAT $STOP=1",
        done=r"\n +3 ",
    ),
    resumes("stopped", "$NEW --set arch.type=Stops", done=r"\n +2 "),
    resumes("nan", f"$NEW --set optimizer.type=SGD --set 'lr_scheduler={LEAP}'", done=r"\n +2 "),
    resumes(
        "nan-after-a-best-that-was-not-due",
        """$NEW --set 'loss={"type": "Late", "args": {"n": 4}}' --set trainer.save_period=5 --set
        trainer.epochs=4""",
        done=r"\n +4 ",
    ),
    *[
        case(
            f"batch-of-one-{arch}",
            ONE_SAMPLE,
            r"(data_loader\.args\.drop_last)",
            f"$C --bs 3599 --set arch.type={arch} --set trainer.len_epoch=null",
            then="--set $1=true",
        )
        for arch in ("Norm", "Functional")
    ],
    case(
        "batch-of-one-size",
        ONE_SAMPLE,
        "another (batch_size)",
        "$C --set arch.type=Norm --set trainer.len_epoch=null",
        "--bs 3599",
        "--$1 9",
    ),
]


STARTING = [
    case(
        "what-to-continue",
        "or to continue a run: -r CHECKPOINT",
        "run: (-r) CHECKPOINT",
        "train.py",
        then=f"$1 $ONE {QUICK}",
    ),
    case(
        "what-to-evaluate",
        "what to evaluate: ",
        "evaluate: (-r) CHECKPOINT",
        "test.py",
        then="$1 $ONE",
    ),
    case(
        "c-forgotten",
        "did you mean {}?",
        r"did you mean (-c .*)\?",
        "train.py short.json --check",
        then="python train.py $1 --check",
    ),
    case(
        "set-forgotten",
        "did you mean {}?",
        r"did you mean (--set .*)\?",
        "$C",
        "trainer.epochs=1 --check",
        then="$1 --check",
    ),
    case(
        "set-forgotten-behind-a-flag",
        "did you mean {}?",
        r"did you mean (--set .*)\?",
        "$C --check --lr=0.01",
        "trainer.epochs=1",
        then="$1 --check",
    ),
    case(
        "set-forgotten-before-the-second",
        "did you mean {}?",
        r"did you mean (--set .*)\?",
        "$C --set trainer.epochs=1",
        "trainer.len_epoch=1 --check",
        then="$1 --check",
    ),
    *(
        case(
            f"set-forgotten-{number}",
            "did you mean {}?",
            r"did you mean (--set .*)\?",
            "$C --check",
            wrong,
            then=f"$1{flag}",
        )
        for number, (wrong, flag) in enumerate(
            (
                ("--epochs 1", ""),
                ("--epochs=1 --seed 4", ""),
                ("--set trainer.epochs 1", ""),
                ("--lr=0.1 trainer.epochs=1", " --lr=0.1"),
            )
        )
    ),
    case(
        "weights-in-a-folder",
        "{} is a folder: name one of its {}",
        r"name one of its (\S+),",
        "$C --check",
        f"--set arch.weights={ONE}",
        f"--set arch.weights={ONE}/$1",
    ),
    case("set", "such as --set trainer.epochs=3", "such as (.*)", "$C", "--set trainer.epochs"),
    case("exists-go-on", "continue it with -r auto", "it with (-r auto)", "$NEW", before="$NEW"),
    case(
        "exists-another",
        "another --run_id",
        "choose another (--run_id)",
        "$C",
        "--run_id one",
        "$1 $RUN",
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
    case(
        "runs-of-all",
        "its runs: {}",
        r"its runs: .*(models/Zebra/z)",
        "test.py",
        "-r saved",
        "-r saved/$1",
        before="$C --set name=Zebra --run_id z",
    ),
    case(
        "config-as-checkpoint",
        "-c takes a config, -r a checkpoint",
        "(-c) takes a config",
        "train.py -r short.json --check",
        then="python train.py $1 short.json --check",
    ),
    case(
        "run_id",
        "--run_id names a new run",
        "(keeps its folder)",
        "train.py -r $ONE",
        "--run_id x",
        " ",
    ),
    case("name", "keeps its name", "(keeps its name)", "train.py -r $ONE", "--set name=Other", " "),
    case(
        "loose",
        "start a new run with its weights",
        "weights: (-c) CONFIG (.*)",
        "train.py",
        "-r 'loose weights/w.pth'",
        "$1 short.json $2",
    ),
    *(
        case(name, "--traceback shows", "(--traceback) shows", words, code=1, done="Traceback")
        for name, words in (
            ("traceback", "$C --set arch.args.num_classes=5"),
            (
                "traceback-in-test",
                """test.py -r $ONE --set 'metrics=[{"type": "top_k_acc", "args": {"k": 99}}]'""",
            ),
        )
    ),
    *(
        case(
            f"outside-{name}",
            "if it is to be made, say so",
            "say so: (.*)",
            f"{script} -r $FOLDER",
            before=f"$NEW --set data_loader.type=Roots $DATA.{setting}",
        )
        for name, script, setting in (
            ("train", "train.py", """"cache=/nowhere/one's cache" """),
            ("test", "test.py", "cache=/nowhere/else"),
            ("list", "train.py", """'roots=["/nowhere/else"]'"""),
        )
    ),
    case(
        "workers",
        "say how many it may be",
        "it may be: (.*)",
        "test.py -r $FOLDER",
        before="""$NEW --set 'test_data_loader={"type": "DigitsDataLoader", "args":
            {"data_dir": "data", "training": false, "shuffle": false, "num_workers": 900}}' """,
    ),
    case(
        "skip",
        "to leave them out",
        r'"arch": \{"skip": (.*)\}',
        "$C -r $ONE --set arch.args.num_classes=11",
        then="--set 'arch.skip=$1'",
    ),
    case(
        "skip-more",
        "to leave them out",
        r'"arch": \{"skip": (.*)\}',
        "$C -r $ONE --set arch.type=Wide",
        """--set 'arch.skip=["conv1.*"]'""",
        "--set 'arch.skip=$1'",
    ),
    case(
        "weights-that-no-file-would-have",
        "name it as arch.weights",
        r"name it as (arch\.weights), and leave out -r",
        """$C --set trainer.save=trained --set 'arch.freeze=["conv1.*"]'""",
        "-r 'loose weights/w.pth'",
        "--set '$1=loose weights/w.pth'",
        done="weights from",
    ),
    new_run("interval", "--set lr_scheduler.interval=step"),
    new_run("flag", "--set optimizer.args.amsgrad=true"),
    new_run("schedule", "--set lr_scheduler.args.gamma=0.5"),
    new_run(
        "rate",
        "--lr 0.1",
        """$NEW --set 'lr_scheduler={"type": "CosineAnnealingLR", "args": {"T_max": 2, "eta_min":
        1e-5}}'""",
        "a running schedule cannot take another",
    ),
    new_run("length", "--set trainer.epochs=4", "$NEW $CYCLE"),
    case(
        "keep-the-epochs",
        "keep the epochs",
        "(keep the epochs)",
        "train.py -r $FOLDER/checkpoint-epoch1.pth",
        "--set trainer.epochs=4",
        " ",
        before="$NEW $CYCLE",
    ),
]


SETTING = [
    *(
        case(
            name,
            "set lr_scheduler.args.max_lr",
            r"set (\S+) of a new run",
            f"{words} --lr 0.1",
            then="python train.py -c short.json $CYCLE --set $1=0.1",
            before=before,
        )
        for name, words, before in (
            ("max_lr", "$C $CYCLE", ""),
            ("max_lr-continued", "train.py -r $FOLDER/checkpoint-epoch1.pth", "$NEW $CYCLE"),
        )
    ),
    *(
        case(
            f"by{name}",
            "set trainer.monitor, such as",
            'such as "(.*)"',
            f"$C $STOP=2 {more}",
            "--set trainer.monitor=off",
            "--set 'trainer.monitor=$1'",
        )
        for name, more in (("", ""), ("-without-validation", "$DATA.validation_split=0"))
    ),
    case(
        "lbfgs",
        ": set trainer.type=",
        r"set (\S+)",
        """$C --set 'optimizer={"type": "LBFGS"}'""",
        then="""python $C --set 'optimizer={"type": "LBFGS"}' --set $1""",
    ),
    case(
        "drop_last",
        "with drop_last?",
        r"with (drop_last)\?",
        "$C --bs 300 $DATA.validation_split=0.95",
        "$DATA.drop_last=true",
        " ",
    ),
    *(
        case(
            f"workers{name}",
            "num_workers 0 shows",
            "(num_workers) (0) shows",
            f"$C --set data_loader.type=Frail {more}",
            "$DATA.num_workers=1",
            "$DATA.$1=$2",
        )
        for name, more in (("", ""), ("-that-prefetch", "$DATA.prefetch_factor=2"))
    ),
    *(
        case(
            name,
            of,
            says,
            f"{test} -r $FOLDER",
            then=f'--set \'$1={{"type": "DigitsDataLoader", "args": {{"training": {training}}}}}\'',
            before="""$NEW --set trainer.monitor=off --set 'data_loader={"type": "Bare"}'""",
        )
        for name, of, says, test, training in (
            (
                "test-data",
                "of its own: test_data_loader",
                "its own: (test_data_loader)",
                "test.py",
                "false",
            ),
            (
                "valid-data",
                "no valid_data_loader",
                "no (valid_data_loader), and",
                "test.py --split valid",
                "true",
            ),
        )
    ),
    case(
        "threads",
        "may be faster",
        r"--set (trainer\.threads=1) may be faster",
        "crowded.py -c short.json",
        "--set trainer.threads=2",
        "--set $1",
    ),
    *(slip(*(field.strip() for field in line.split(" |"))) for line in lines_of(SLIPS)),
]


@pytest.mark.parametrize("case", [*GOING_ON, *STARTING, *SETTING])
def test_what_it_says_helps(project, request, case):
    name = f"it's {request.node.callspec.id}"
    if case.before:
        typed(project, filled(case.before, name))
    said = typed(project, filled(f"{case.words} {case.wrong}", name))
    found = re.search(case.says, said.text)
    assert found, said.text
    then = filled(case.then, name)
    for i, group in enumerate(found.groups(), 1):
        then = then.replace(f"${i}", group)
    whole = then.startswith("python ")
    helped = typed(project, then if whole else f"{filled(case.words, name)} {then}")
    assert helped.code == case.code and re.search(case.done, helped.text), helped.text
    assert whole or case.code or not re.search(case.says, helped.text), helped.text


INSIDE = (
    "$C --bs 3599 --set arch.type=Functional --set trainer.len_epoch=null --set trainer.save_step=1"
)
NOTHING = {
    "second-scheduler": ("two.py -c short.json", "\nbest val_loss .*\ntest: ", "continue"),
    "idle-of-fixed-length": (
        "train.py -r $FOLDER",
        r"nothing to do \(epoch 2 of 2\)\n",
        "raise|continue",
    ),
    "batch-of-one-inside-an-epoch": (
        INSIDE,
        "a batch of one sample cannot pass BatchNorm\n",
        "drop_last|batch_size",
    ),
    "batch-of-one-again": (INSIDE, "a batch of one sample", "resume"),
    "traceback-of-a-named-run": (
        "$NEW --set arch.args.num_classes=5",
        "out of bounds",
        "--traceback shows",
    ),
    "max_lr-of-a-file": ("train.py -c commands/cycle.json", "\nbest val_loss ", "max_lr"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_said_that_would_not_help(project, name):
    words, there, absent = NOTHING[name]
    if "$FOLDER" in words:
        typed(project, filled("$NEW $CYCLE", name))
    said = typed(project, filled(words, name)).text
    assert re.search(there, said), said
    assert not re.search(absent, said), said


@pytest.mark.parametrize(
    "where, script, options",
    [
        (".", "my train.py", "--run_id \"a 'named' $RUN\""),
        ("..", "train.py", "--run_id $(date)"),
        ("loose weights", "my train.py", "--set 'name=an \"experiment\"; or two'"),
        ("saved/models/Digits_LeNet", "train.py", "--run_id=-dashed"),
        (".", "train.py", "--set 'name=no\u00a0break'"),
        (".", "its scripts/own.py", "--run_id own"),
        ("..", "its scripts/own.py", "--run_id 'own above'"),
        ("its scripts", "its scripts/own.py", "--run_id 'own beside'"),
        ("loose weights", "../apart/far.py", "--run_id far"),
    ],
    ids=[
        "script",
        "above",
        "below",
        "dash",
        "space",
        "folder",
        "folder-above",
        "folder-itself",
        "apart",
    ],
)
def test_commands_work_where_they_are_printed(project, where, script, options):
    folder = project / where
    train = (
        f"{shlex.quote(str(project / script))} -c "
        f"{shlex.quote(str(project / 'short.json'))} {options}"
    )
    said = typed(folder, train)
    assert said.code == 0, said.text
    for what, done in (("test", "test data, 1,000 samples"), ("continue", r"\n +3 +(val +)?\d")):
        (line,) = re.findall(f"{what}: +(python .*)", said.text)
        helped = typed(folder, line)
        assert helped.code == 0 and re.search(done, helped.text), helped.text
    assert Path(shlex.split(line)[1]).name == Path(script).name
    if "--run_id" in options:
        (auto,) = re.findall("continue it with (-r auto)", typed(folder, train).text)
        helped = typed(folder, f"{train} {auto} --set trainer.epochs=5")
        assert helped.code == 0 and re.search(r"\n +5 +(val +)?\d", helped.text), helped.text


@pytest.mark.parametrize(
    "where, script, words, says",
    [
        (".", "train.py", "", "what to train: (.*), or"),
        ("loose weights", "train.py", "", "what to train: (.*), or"),
        ("loose weights", "../apart/far.py", "", "what to train: (.*), or"),
        (".", "train.py", "-r auto", "the config of the run: (.*)"),
        ("loose weights", "train.py", "-r auto", "the config of the run: (.*)"),
    ],
    ids=["what", "what-below", "what-apart", "auto", "auto-below"],
)
def test_the_config_is_there(project, request, where, script, words, says):
    train = shlex.quote(str(project / script))
    (options,) = re.findall(says, typed(project / where, f"{train} {words}").text)
    helped = typed(
        project / where, f"{train} {options} {QUICK} --run_id {request.node.callspec.id}"
    )
    assert helped.code == 0, helped.text


@pytest.mark.parametrize(
    "file, content, missing, base",
    [
        ("nameless.json", {}, "name", "config.json"),
        ("bare.json", {"name": "Bare"}, "arch", "config.json"),
        ("commands/nameless.json", {}, "name", "../config.json"),
        ("config.json", {}, "name", "short.json"),
    ],
    ids=["name", "arch", "elsewhere", "itself"],
)
def test_a_base_gives_what_is_missing(project, file, content, missing, base):
    path = project / file
    before = path.read_text() if path.exists() else None
    content = {**content, "trainer": {"epochs": 1, "len_epoch": 2}}
    try:
        path.write_text(json.dumps(content))
        said = typed(project, f"train.py -c {file} --check")
        (key,) = re.findall(
            rf' {missing} is missing; a config that has it may be its "(.*)"', said.text
        )
        path.write_text(json.dumps({**content, key: base}))
        helped = typed(project, f"train.py -c {file} --check")
        assert helped.code == 0, helped.text
    finally:
        path.write_text(before) if before else path.unlink()


@pytest.mark.parametrize(
    "right, wrong, says, mended",
    [
        ('"seed"', '# a seed\n"seed"', "comments begin with //", '// a seed\n"seed"'),
        ('"seed"', '/* a seed\n"seed"', r"/\* ends with \*/", '/* a seed */\n"seed"'),
        (
            '"seed"',
            r'"mine": "C:\data", "seed"',
            "is written twice",
            r'"mine": "C:\\data", "seed"',
        ),
        ('"seed"', r'"mine": "C:\data", "seed"', "/ in its place", '"mine": "C:/data", "seed"'),
        ("false", "False", "write true, false and null", "false"),
        ('"seed"', "'seed'", "strings and keys stand in double quotes", '"seed"'),
        ("1\n    }", "1,,\n    }", "a comma, but no value", "1,\n    }"),
        ("1\n    }\n}", "1\n    }\n", "a closing brace or", "1\n    }\n}"),
        ('"Digits_LeNet"', '"Digits_L\udce9Net"', "save it as UTF-8", '"Digits_L\xe9Net"'),
    ],
    ids=["hash", "open", "twice", "slash", "words", "quotes", "comma", "brace", "encoding"],
)
def test_a_file_that_is_no_json_is_mended_as_it_says(project, right, wrong, says, mended):
    text, file = (project / "short.json").read_text(), project / "wrong.json"
    assert right in text
    file.write_text(text.replace(right, wrong), encoding="utf-8", errors="surrogateescape")
    said = typed(project, "train.py -c wrong.json --check")
    assert said.code == 2 and re.search(says, said.text), said.text
    file.write_text(text.replace(right, mended), encoding="utf-8")
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
        helped = typed(
            project, f"train.py -r {shlex.quote(str(folder / name))} --set trainer.epochs=3"
        )
        assert helped.code == 0, helped.text


def test_a_checkpoint_that_is_moved_to_a_run_folder_continues(project):
    assert "move it to one" in typed(project, "train.py -r 'loose weights/w.pth'").text
    folder = project / "saved" / "models" / "Digits_LeNet" / "moved here"
    folder.mkdir()
    shutil.copy(project / ONE / "config.json", folder)
    shutil.copy(project / "loose weights" / "w.pth", folder)
    helped = typed(
        project, f"train.py -r {shlex.quote(str(folder / 'w.pth'))} --set trainer.epochs=3"
    )
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
    script = (
        "import pathlib, machinery.checkpoints.run_folder as f; "
        "lock = f.own(pathlib.Path('.')); print(1, flush=True); input()"
    )
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
        pid = re.findall(
            r"in use by pid (\d+) on .*: stop it first, or start another run", said.text
        )
        assert pid == [str(process.pid)], said.text
        assert typed(project, "train.py -c short.json").code == 0
        process.terminate()
    finally:
        process.kill()
        process.communicate()
    assert typed(project, f"train.py -r {ONE}").code == 0


def test_data_that_is_restored_is_found(project):
    file, away = project / "data" / "mnist5k.npz", project / "away.npz"
    file.rename(away)
    said = typed(project, "train.py -c short.json --check")
    away.rename(file)
    assert said.code == 3 and "it came with the project" in said.text, said.text
    assert typed(project, "train.py -c short.json --check").code == 0


def classic_checkpoint(folder, path):
    """A checkpoint of LeNet as the classic template wrote it."""
    module = types.ModuleType("parse_config")
    module.ConfigParser = type(
        "ConfigParser", (), {"__module__": "parse_config", "__qualname__": "ConfigParser"}
    )
    config = module.ConfigParser()
    config._config = json.loads((folder / "short.json").read_text())
    weights = torch.load(folder / ONE / "model_best.pth", weights_only=True)["state_dict"]
    state = {
        "arch": "MnistModel",
        "epoch": 2,
        "state_dict": weights,
        "optimizer": {},
        "config": config,
    }
    before = sys.modules["parse_config"]
    sys.modules["parse_config"] = module
    try:
        torch.save(state, path)
    finally:
        sys.modules["parse_config"] = before


@pytest.mark.parametrize(
    "where, old, new",
    [
        (".", "../old.pth", "NEW.pth"),
        (".", "old.pth", "a new.pth"),
        ("..", "../old.pth", "new.pth"),
    ],
    ids=["root", "quotes", "elsewhere"],
)
def test_a_classic_checkpoint_is_converted_and_tested_as_it_says(project, where, old, new):
    old, converted = (project / old).resolve(), project / where / new
    classic_checkpoint(project, old)
    said = typed(
        project / where, f"{shlex.quote(str(project / 'test.py'))} -r {shlex.quote(str(old))}"
    )
    (line,) = re.findall(r"convert it:\n +(python .*)", said.text)
    said = typed(project / where, line.replace("NEW.pth", shlex.quote(new)))
    assert said.code == 0 and converted.exists(), said.text
    (line,) = re.findall("test: (python .*)", said.text)
    helped = typed(project / where, line)
    assert helped.code == 0 and "test data, 1,000 samples" in helped.text, helped.text


@pytest.mark.skipif(
    not (ROOT / "tools" / "new_project.py").exists(), reason="a project made by it has it no more"
)
@pytest.mark.parametrize("name", ["plain", "it's new"])
def test_a_new_project_trains_as_it_says(project, tmp_path, name):
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
        {**config, "trainer": {**config["trainer"], "epochs": 2}},
        resume=one.checkpoint_dir / "checkpoint-epoch1.pth",
    )


def total(output, target):
    return nn.functional.cross_entropy(output, target, reduction="sum")


def test_a_loss_that_is_meant_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tiny, "total", total, raising=False)
    config = tiny.settings(tmp_path, loss="total", trainer__epochs=1)
    tiny.train(config)
    (advice,) = re.findall(
        r"give the loss an attribute (in_batch) = (True)", capfd.readouterr().out
    )
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


class LogSoftmaxed(tiny.TinyModel):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Softmaxed(tiny.TinyModel):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Score(tiny.TinyModel):
    def forward(self, x):
        return super().forward(x)[:, :1]


class Sigmoid(Score):
    def forward(self, x):
        return super().forward(x).sigmoid()


def log_likelihood(output, target):
    return nn.functional.nll_loss(output, target)


def logits(output, target):
    right = (target == 0).float()[:, None]
    return nn.functional.binary_cross_entropy_with_logits(output, right)


#: What a loss is given in place of what it takes: what is said, what is set, and what instead.
MISFITS = [
    (
        "let the model end in log_softmax",
        ("TinyModel", "log_likelihood"),
        ("LogSoftmaxed", "log_likelihood"),
    ),
    (
        "or take cross_entropy as the loss",
        ("TinyModel", "log_likelihood"),
        ("TinyModel", "cross_entropy"),
    ),
    (
        "leave the model's softmax out",
        ("Softmaxed", "cross_entropy"),
        ("TinyModel", "cross_entropy"),
    ),
    ("leave the sigmoid out", ("Sigmoid", "logits"), ("Score", "logits")),
]


@pytest.mark.parametrize("says, wrong, right", MISFITS)
def test_what_it_says_of_a_loss_that_does_not_fit_helps(
    tmp_path, monkeypatch, capfd, says, wrong, right
):
    for each in (LogSoftmaxed, Softmaxed, Score, Sigmoid, log_likelihood, logits):
        monkeypatch.setattr(tiny, each.__name__, each, raising=False)
        monkeypatch.setattr(each, "__module__", "tiny")

    def told(arch, loss):
        more = {"metrics": [], "trainer__epochs": 1, "trainer__verbosity": 1}
        tiny.train(tiny.settings(tmp_path, arch={"type": arch}, loss=loss, **more))
        return capfd.readouterr().out

    assert says in told(*wrong)
    assert "the loss takes" not in told(*right)


def left_out(path, train_all=False, **changes):
    """A trainer of the last layer alone, or of all by two optimizers."""
    config = tiny.settings(path, lr_scheduler=None, trainer__verbosity=1, **changes)
    trainer = tiny.build(config)
    last = list(trainer.model.fc2.parameters())
    trainer.optimizer = torch.optim.SGD(last, lr=0.1)
    if train_all:
        body = [*trainer.model.fc1.parameters(), *trainer.model.norm.parameters()]
        trainer.others = [torch.optim.SGD(body, lr=0.1)]
    return trainer


def test_parameters_that_nobody_trains_are_frozen_or_trained(tmp_path, capfd):
    left_out(tmp_path).train()
    (said,) = re.findall(
        r"freeze them \((arch.freeze), " r".*\), or give them to an optimizer",
        capfd.readouterr().out,
    )
    assert said == "arch.freeze"
    left_out(tmp_path, arch={"type": "TinyModel", "freeze": ["fc1.*", "norm.*"]}).train()
    left_out(tmp_path, train_all=True).train()
    with_loss = {"loss": {"type": "Shifted"}, "trainer__verbosity": 1}
    frozen = tiny.build(tiny.settings(tmp_path, **with_loss))
    frozen.criterion.requires_grad_(False)
    frozen.train()
    assert "no optimizer trains" not in capfd.readouterr().out
    tiny.train(tiny.settings(tmp_path, **with_loss))
    (option,) = re.findall(r"--set (optimizer.loss)=true trains them", capfd.readouterr().out)
    changes = {option.replace(".", "__"): True}
    tiny.init_optimizer_from(ConfigParser(tiny.settings(tmp_path, **with_loss, **changes))).train()
    assert "no optimizer trains" not in capfd.readouterr().out


class Overrides(Trainer):
    def _save_checkpoint(self, epoch, save_best=False):
        raise AssertionError


class Texts(Trainer):
    def _forward(self, batch):
        output = self.model(torch.ones(len(batch), 6))
        return (
            self.criterion(output, torch.zeros(len(batch), dtype=torch.int64)),
            output,
            torch.zeros(len(batch)),
        )


class CountedTexts(Texts):
    def batch_size_of(self, batch):
        return len(batch)


def train_on(path, kind, batches=None):
    config = tiny.settings(path, trainer__epochs=1, trainer__monitor="off", metrics=[])
    trainer = tiny.build(config, trainer_class=kind)
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


def optimizer_of(path, **options):
    init_optimizer(ConfigParser(tiny.settings(path)), Lazy(**options))


def loader_of(path, data, **options):
    len(BaseDataLoader(data, 4, False, 0, 0, **options))


class Named(tiny.Points):
    """Draws from all generators, and names some."""

    def __init__(self, *modules):
        super().__init__(9)
        self.draws_from = modules


def read_named(path, modules):
    list(BaseDataLoader(Named(*modules), 4, False, 0.0, 0))


def tiny_loader(path, **options):
    tiny.TinyLoader(**options)


def of_two(path, function, **options):
    """What a function does in the second of two processes of a machine with one GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "device_count", lambda: 1)
        patch.setattr(distributed.world, "size", 2)
        patch.setattr(distributed.world, "local_rank", 1)
        function(**options)


class Counts:
    """A metric that cannot be added up."""

    __name__ = "counts"

    def reset(self):
        self.n = 0

    def update(self, output, target):
        self.n += len(output)

    def compute(self):
        return self.n


class Mergeable(Counts):
    def merge_state(self, other):
        self.n += other.n


def attempt(config):
    try:
        tiny.train(config)
    except UserError as error:
        return str(error)


def train_on_two(path, **options):
    """Train with a remainder of 3 of 83 samples, as far as the options do not say otherwise."""
    path.mkdir()
    told = ranks.run(
        path, 2, attempt, tiny.settings(path, trainer__epochs=1, data_loader__args=options)
    )
    if any(told):
        raise UserError(told[0])


class Grows(tiny.Points):
    """As long as an epoch says."""

    epoch = 1

    def __len__(self):
        return 24 * self.epoch


def train_on_more(path, len_epoch=None, **options):
    """Train on data that is longer in the second epoch."""

    class Growing(Trainer):
        def _train_epoch(self, epoch):
            self.data_loader.dataset.epoch = epoch
            return super()._train_epoch(epoch)

    loader = BaseDataLoader(Grows(60), 8, True, num_workers=0, **options)
    config = tiny.settings(path, trainer__epochs=2, trainer__len_epoch=len_epoch)
    valid = BaseDataLoader(tiny.Points(20), 8, False, 0.0, 0)
    tiny.train(config, trainer_class=Growing, data_loader=loader, valid_data_loader=valid)


def tiny_of(path, **options):
    tiny.train(tiny.settings(path, data_loader__args=options, trainer__monitor="off"))


class Freezing(Trainer):
    def _train_epoch(self, epoch):
        self.model.module.fc1.requires_grad_(epoch == 1)
        return super()._train_epoch(epoch)


def attempt_frozen(config):
    try:
        tiny.train(config, trainer_class=Freezing)
    except UserError as error:
        return str(error)


def freeze_on_two(path, **changes):
    path.mkdir()
    changes["data_loader__args"] = {"drop_last": True}
    told = ranks.run(path, 2, attempt_frozen, tiny.settings(path, **changes))
    if any(told):
        raise UserError(told[0])


TEXTS = DataLoader(["one", "two", "three", "four"], batch_size=2)
OTHERS = DistributedSampler(range(9), 2, 0)
#: What is said, of which function with which arguments, and with which it is not.
IN_CODE = {
    "_save_checkpoint would never be called: leave it out": (
        train_on,
        {"kind": Overrides},
        {"kind": Trainer},
    ),
    r"let the trainer's batch_size_of\(batch\) say": (
        partial(train_on, batches=TEXTS),
        {"kind": Texts},
        {"kind": CountedTexts},
    ),
    "give it a batch in its constructor": (optimizer_of, {}, {"batch": torch.ones(2, 6)}),
    "give it a __len__": (loader_of, {"data": Endless()}, {"data": Counted()}),
    r"draws_from does not name: draws_from = \('torch', 'numpy', 'random'\)": (
        read_named,
        {"modules": ("numpy",)},
        {"modules": ("torch", "numpy", "random")},
    ),
    "leave the DistributedSampler out": (
        partial(loader_of, data=range(9)),
        {"sampler": OTHERS},
        {},
    ),
    "beside a sampler of your own: set it to 0": (
        partial(tiny_loader, kind="weighted"),
        {"validation_split": 0.2},
        {"validation_split": 0},
    ),
    "beside a batch_sampler: set them to false": (
        partial(tiny_loader, kind="batches", validation_split=0),
        {"drop_last": True},
        {"drop_last": False},
    ),
    "too few for BatchNorm: set data_loader.args.drop_last, or": (
        partial(tiny_of, n=97, validation_split=0.0),
        {},
        {"drop_last": True},
    ),
    "ends with a batch of one sample, .* or another batch_size": (
        partial(tiny_of, n=97, validation_split=0.0),
        {},
        {"batch_size": 7},
    ),
    "set trainer.find_unused_parameters=true": (
        freeze_on_two,
        {"trainer__find_unused_parameters": False},
        {"trainer__find_unused_parameters": True},
    ),
    "samples are too few for 2": (
        partial(train_on_two, drop_last=True),
        {"batch_size": 1},
        {"batch_size": 4},
    ),
    "too few for BatchNorm: set data_loader.args.drop_last": (
        train_on_two,
        {},
        {"drop_last": True},
    ),
    "too few for BatchNorm: .* or another batch_size": (train_on_two, {}, {"batch_size": 7}),
    r"where trainer\.len_epoch is set: leave len_epoch out": (
        partial(train_on_more, validation_split=0),
        {"len_epoch": 3},
        {},
    ),
    "set validation_split to 0, and give a valid_data_loader": (
        train_on_more,
        {"validation_split": 4},
        {"validation_split": 0},
    ),
    "on several processes counts needs a method merge_state": (
        partial(of_two, function=partial(check_processes, torch.nn.Identity(), None, synced=False)),
        {"metrics": [Counts()]},
        {"metrics": [Mergeable()]},
    ),
}


@pytest.mark.parametrize("says", IN_CODE)
def test_what_it_says_of_code_helps(tmp_path, says):
    function, wrong, right = IN_CODE[says]
    with pytest.raises(UserError, match=says):
        function(tmp_path / "wrong", **wrong)
    function(tmp_path / "right", **right)


#: What a suggestion looks like in the code.
SUGGESTION = re.compile(
    r"(?:^|[ (:])-(?:-[a-z]|[cr] )|python |continue:|resume:|did "
    r"you mean|in_batch|would change|may be|too few|"
    r"\b(?:set|raise|leave|give|use|try|start|choose|write|take|move|convert|keep|delete|say|"
    r"name one|"
    r"stop it|finish|let the|there are|needs|stand in double quotes|a comma before|is missing)\b"
)
#: Those that are followed in functions of their own, in this order; the last ones in
#: config/test_secrets.py, config/test_trust.py, config/test_installed.py,
#: update/test_parameter_groups.py, config/test_words_for_optimizers.py, config/test_nested.py,
#: data/test_choosing.py, messages/test_first_batch.py, update/test_schedules.py,
#: messages/test_memory.py, data/test_waiting.py, update/test_recomputing.py
#: update/test_switches.py, classic/test_older_versions.py, messages/test_messages.py,
#: update/test_fused.py, data/test_images.py, processes/test_by_name.py, data/test_bad_data.py
#: and tools/test_tune.py.
FOLLOWED = """what to train: -c {}
-r auto needs
may be its "base"
comments begin with //
a comment that begins with /* ends
a backslash in a string is written
write true, false and null
in double quotes
a closing brace
save it as UTF-8
stop it first, or start
it came with the project; or set
convert it:
finish its run first
in_batch = True
model.train() would change
would never be called: leave it out
batch_size_of(batch) say
give it a batch in its constructor
give it a __len__
leave the DistributedSampler
leave len_epoch out
give each worker a part
or set num_workers to 1
set validation_split to 0, and give a valid_data_loader
beside a sampler of your own: set it to 0
beside a batch_sampler: set them to false
samples are too few for
too few for BatchNorm
a parameter had no gradient
set trainer.find_unused_parameters
set data_loader.args.drop_last, or another batch_size
set another batch_size
on several processes {} needs a method
use bf16 or fp32
leave self._schedule
the name is taken
leave an empty group out
try a smaller lr
freeze them (arch.freeze
requires_grad_(False) freezes them
let the model end in log_softmax
the loss takes logits, but
leave the model's softmax out
leave out what only gave starting weights
--set arch.args.NAME=null
WORLD_SIZE is {}, but
--nnodes=$WORLD_SIZE
--master_addr=$MASTER_ADDR
{}: {} is not set in the environment {}
--set '{}=…', or ${NAME} for a variable of the environment
if that is meant, say so: {}
to go on without: {}
: did you mean {}.{}?
did you mean {}?
{}: {}: leave them out
give max_lr as a list
metrics: two numbers are called {}: give one a "name"
(each validation set has its own)
leave the type of one of them out
the groups leave {} no parameter
--set {}.args.download=true fetches it
data_loader.args: {}: set it to 0
let the constructor of a trainer of your own say
an object takes no arguments: leave them out
say what the test data have in place of its args
give it an attribute targets, or give weights
"balanced" needs the class of each sample
drop_last has no effect beside batch_by: set
weights and batch_by do not go together: leave
raise batch_size, or cut the samples
say in trainer/trainer.py what it means
no resume could be exact: take ReduceLROnPlateau
half data_loader.args.batch_size and twice trainer.accumulate
more data_loader.args.num_workers may help; tools/tune.py
{} is inside {}: leave one of them out
{}: leave one of them out
give a BaseDataLoader its further options by name: pin_memory=True
activate the project's virtual environment, or pip install -r
set optimizer.args.fused to false
trainer.channels_last is why: write x.flatten(1), or set
trainer.channels_last: {}: set
shares of classes, as mixup and cutmix make them: set
keep layers in nn.ModuleList or nn.ModuleDict
iterable data has no length: leave it out
a config is a file; -r takes the folder
is no text: a config is JSON; -r takes
leave out of its transform what makes floats
let the dataset's transform resize them
take a class int64 for each image
some are grey and some not: image.convert
{}: give mean and std one a channel
give fewer than their shorter side has
has mode {}: image.convert
has no effect beside {}, which read all images
mixup and cutmix: {}: give classes
are not for iterable data: leave them out
{}: use "whole"
let reset_parameters() set it, or make it a buffer
let a reset_parameters() write it
{}: choose one of them
"sharded" needs safetensors: pip install safetensors
set all that an iteration begins with
let the loader's len say at most
started once for each of {} GPUs: name one by -d 0""".splitlines()


#: What only looks like one: help, origins, and what is told beside a suggestion.
NONE = """checkpoint or run folder; with -c
set any key of the config
try everything on one batch
GPUs to use
-r is empty
-r auto starts a new run
these start afresh
could not write
use newer code
{} (--set {})
let no other process write
needs about
--run_id {}: expected
no dot at its start
trainer.epochs is missing
restarts may fail
its secret is kept in no record
only args take values of the environment
records show *** for the secret in it
srun has started {}
{} may fetch what it needs, or write it
{}: {}, which is missing
nothing of {} may be named in a config
the dataset does not say how many classes
classes of {} to {}, where there are""".splitlines()


def literals(path):
    """The texts of a file, with {} for what is put in."""
    tree = ast.parse(path.read_text())
    passed_over = set()  # docstrings, and pieces of a text
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            passed_over.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            passed_over.update(node.values)
            yield "".join(getattr(piece, "value", "{}") for piece in map(constant, node.values))
        elif isinstance(node, ast.Constant) and node not in passed_over:
            if isinstance(node.value, str):
                yield node.value


def constant(piece):
    """A piece of a text that is always the same; None where something is put in."""
    return piece if isinstance(piece, ast.Constant) else None


def test_every_suggestion_is_followed():
    paths = list(ROOT.glob("*.py"))
    for part in SHARED + OWN:
        paths += (ROOT / part).rglob("*.py")
    texts = []
    for path in paths:
        texts += [text for text in literals(path) if " " in text.strip()]
    known = [param.values[0].of for param in (*GOING_ON, *STARTING, *SETTING)] + [*FOLLOWED, *NONE]
    new = list(filter(SUGGESTION.search, texts))
    for piece in known:
        assert any(piece in text for text in texts), f"nothing says this any more: {piece}"
        new = [text for text in new if piece not in text]
    assert not new, f"type what these suggest in a test here: {new}"
