"""tools/tune.py: what is measured is the training, and what is recommended is faster."""

import json
import os
import re
import subprocess
import sys

import pytest
import torchvision.datasets  # noqa: F401

import forked
from projects import ROOT
from scripts import words


def _measured(given):
    os.chdir(ROOT)
    import argparse

    from parse_config import ConfigParser
    from tools.tuning.measuring import measured
    from train import OPTIONS

    sys.argv = ["train.py", *map(str, given), "--check"]
    print(json.dumps(measured(ConfigParser.from_args(argparse.ArgumentParser(), OPTIONS), 0.05)))


def figures(folder, **more):
    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    assert forked.finish(forked.start(_measured, words(folder, **more), output=output)) == 0, (
        output.read_text()
    )
    return json.loads(output.read_text().splitlines()[-1])


def test_what_is_measured_is_the_training(tmp_path):
    plain, channels, workers = (
        figures(tmp_path, **more)
        for more in ({}, {"trainer.channels_last": "true"}, {"data_loader.args.num_workers": 1})
    )
    assert plain["rate"] > 0 and plain["facts"]["convolves"] and plain["facts"]["fuses"]
    assert plain["facts"]["fused"] and not plain["facts"]["blocks"]
    assert workers["losses"][:10] == plain["losses"][:10] and workers["facts"]["workers"] == 1
    assert channels["losses"][:10] == pytest.approx(plain["losses"][:10], abs=1e-3)


def test_one_process_is_measured():
    """Which no launcher could start again."""
    command = [sys.executable, "tools/tune.py", "-c", "config.json"]
    common = {"cwd": ROOT, "capture_output": True, "text": True}
    told = subprocess.run([*command, "-d", "0,1"], **common)
    assert told.returncode == 2 and told.stderr.count("error") == 1
    assert "this is not started once for each of 2 GPUs: name one by -d 0" in told.stderr
    told = subprocess.run([*command, "-d", "0", "--seconds", "0.01", "--minutes", "0.01"], **common)
    assert told.returncode == 0, told.stderr


def test_tuning_recommends_what_is_faster_together():
    from tools.tune import Figure, Tuner, recommendation, tuned

    gains = {
        "trainer.channels_last": 1.3,
        "optimizer.args.fused": 1.2,
        "trainer.compile": 1.25,
        "trainer.threads": 0.8,
    }

    class Made(Tuner):
        """Channels last and compiling are no good together; fused is good with everything."""

        def figure(self, settings):
            self.facts = {
                "cores": 2,
                "device": "cpu",
                "threads": 2,
                "workers": 0,
                "arguments": [],
                "fuses": True,
                "fused": False,
                "compile": False,
                "blocks": False,
            }
            self.facts |= {"channels_last": False, "convolves": True, "batch": 64, "samples": 500}
            rate = 1000.0
            for key in settings:
                rate *= gains.get(key, 1.0)
            if {"trainer.channels_last", "trainer.compile"} <= settings.keys():
                rate = 900.0
            if settings.get("trainer.precision") == "bf16":
                return Figure(error="error: no bf16 here")
            return Figure(rate, 100.0, (2.0, 1.0 + 1e-6 * len(settings)), 1.0)

    lines = []
    tuner = Made([], 1, 1)
    best = tuned(tuner, lines.append)
    assert best == {"trainer.channels_last": True, "optimizer.args.fused": True}
    text = "\n".join(lines)
    assert (
        len([line for line in lines if "other batches" in line]) == 2
    )  # one and two workers; here their losses differ
    assert tuner.line("num_workers=1", Figure(1000.0, 1.0)).endswith("losses unknown")
    both = tuner.line("channels_last=true num_workers=1", Figure(1000.0, 1.0, (2.0, 1.5)))
    assert both.endswith(" 0.5  other last bits")
    assert (
        "error: no bf16 here" in text
        and re.search(r"fused=true\n +1,560 +1\.56 ", text)
        and "batch_size=128" in text
    )
    assert max(map(len, text.splitlines())) <= 80
    # What is found is measured once more, beside the config as it stands.
    told = [*recommendation(tuner, best)]
    assert told[0] == "recommended, 1.56 times as fast, measured once more:"
    assert told[1].endswith("--set trainer.channels_last=true --set optimizer.args.fused=true")
    gains.clear()
    (told,) = recommendation(tuner, best)
    assert told.startswith("nothing is faster for sure: channels_last=true fused=true")
    assert [*recommendation(tuner, {})] == ["nothing is faster than the config as it stands"]


def test_tuning_ends_in_time():
    """What there is no time for is named; what was found by then is recommended."""
    from tools.tune import Figure, Tuner, recommendation, tuned

    facts = {"cores": 1, "device": "cpu", "threads": 1, "workers": 0, "arguments": []}
    facts |= {"fuses": True, "fused": False, "channels_last": False, "compile": False}
    facts |= {"blocks": False, "convolves": True, "batch": 64, "samples": 500}

    class Slow(Tuner):
        def figure(self, settings):
            self.facts = facts
            self.end -= 10.0  # each takes so many seconds
            self.each = 10.0
            return Figure(1000.0 + 500 * bool(settings), 100.0, (2.0,), 1.0)

    tuner = Slow([], 1, 1, limit=75)
    lines = []
    best = tuned(tuner, lines.append)
    assert len(lines) == 6  # the heads, the config as it stands, four settings
    assert best == {"data_loader.args.num_workers": 1}
    told = "\n".join(recommendation(tuner, best))
    assert told.startswith("no time for: compile=true, num_workers=1 precision=bf16, ")
    assert "recommended, 1.50 times" in told
    assert max(map(len, "\n".join([*lines, told]).splitlines())) <= 80


def test_what_is_tried_is_another_way():
    from tools.tune import alternatives

    facts = {"cores": 1, "device": "cuda", "threads": 1, "workers": 1, "convolves": True}
    facts |= {"arguments": ["device_resident"], "fuses": True, "fused": True, "blocks": True}
    facts |= {"channels_last": True, "compile": False}
    tried = [*alternatives(facts)]
    assert tried == [
        {"data_loader.args.num_workers": 0},
        {"data_loader.args.device_resident": True},
        {"trainer.precision": "tf32"},
        {"trainer.precision": "fp16"},
        {"trainer.cudnn_benchmark": True},
        {"trainer.precision": "bf16"},
        {"trainer.channels_last": False},
        {"optimizer.args.fused": False},
        {"trainer.compile": "blocks"},
        {"trainer.compile": True},
        {"trainer.compile": "reduce-overhead"},
    ]
    facts |= {"device": "cpu", "compile": True, "blocks": False}
    assert not any("trainer.compile" in each for each in alternatives(facts))
