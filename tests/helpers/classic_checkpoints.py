"""Checkpoints as the classic template wrote them."""

import json
import os
import pathlib
import sys
import types

import numpy as np
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

from projects import ROOT

CLASSIC = ROOT / "tests" / "classic_project"


class Runs:
    """A payload: unpickling it in the usual way makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Calls(Runs):
    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def write_classic(path, extra=None, legacy=False):
    """A checkpoint as the classic template wrote it, with a pickled ConfigParser."""
    module = types.ModuleType("parse_config")

    class ConfigParser:
        pass

    ConfigParser.__module__, ConfigParser.__qualname__ = "parse_config", "ConfigParser"
    module.ConfigParser = ConfigParser
    config = ConfigParser()
    config._config = json.loads((CLASSIC / "config.json").read_text())
    config._save_dir, config.resume = pathlib.PosixPath("saved/models/x"), None
    config.log_levels = {0: 30}
    sys.path.insert(0, str(CLASSIC))
    weights = {"module.fc1.weight": torch.zeros(1)}
    state = {
        "arch": "RingModel",
        "epoch": 2,
        "state_dict": extra.pop("weights", weights) if extra else weights,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "monitor_best": np.float64(0.25),
        "config": config,
        **(extra or {}),
    }
    before = sys.modules.get("parse_config")
    sys.modules["parse_config"] = module
    try:
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    finally:
        sys.path.remove(str(CLASSIC))
        if before is not None:
            sys.modules["parse_config"] = before
        else:
            del sys.modules["parse_config"]
