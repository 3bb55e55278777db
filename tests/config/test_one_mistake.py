"""A good config with one mistake in it: told with exit code 2 before a folder is made, or it
trains."""

import copy
import json
import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import tiny
from machinery.config.optimization import init_optimizer, init_scheduler
from machinery.errors import UserError

GOOD = {
    "name": "Tiny",
    "n_gpu": 0,
    "seed": 1,
    "arch": {"type": "TinyModel", "args": {"width": 4, "dropout": 0.1}, "freeze": ["fc1.bias"]},
    "data_loader": {
        "type": "TinyLoader",
        "args": {"batch_size": 8, "shuffle": True, "n": 40, "validation_split": 0.2},
    },
    "optimizer": {
        "type": "SGD",
        "args": {"lr": 0.01, "momentum": 0.9},
    },
    "loss": "cross_entropy",
    "metrics": ["accuracy", {"type": "accuracy", "name": "hits"}],
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 1}, "interval": "epoch"},
    "trainer": {
        "epochs": 1,
        "save_period": 1,
        "verbosity": 0,
        "monitor": "min val_loss",
        "early_stop": 3,
        "tensorboard": False,
        "accumulate": 2,
        "log_step": 2,
        "precision": "fp32",
    },
}


VALUES = [None, True, -1, 0, 1.5, 3, "", "x", "3", [], {}, [1], {"type": "x"}, 1e9]


def places(value, path=()):
    """The paths of all values in nested containers."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


@st.composite
def mutated(draw):
    """The good config's text with one or two mistakes."""
    config = copy.deepcopy(GOOD)
    duplicate = None
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(config))))
        parent = config
        for key in path[:-1]:
            parent = parent[key]
        key = path[-1]
        kind = draw(st.sampled_from(["drop", "retype", "rename", "nest", "duplicate"]))
        if kind == "drop":
            del parent[key]
        elif kind == "retype":
            parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "nest":
            parent[key] = {str(key): parent[key]}
        elif kind == "rename" and isinstance(key, str) and key:
            at = draw(st.integers(0, len(key) - 1))
            parent[key[:at] + draw(st.sampled_from(["", "x", key[at] * 2])) + key[at + 1 :]] = (
                parent.pop(key)
            )
        elif kind == "duplicate" and isinstance(key, str):
            duplicate = f'"{key}":'
    text = json.dumps(config, indent=1)
    if duplicate and duplicate in text:
        text = text.replace(duplicate, f"{duplicate} 1, {duplicate}", 1)
    return text


def run(folder):
    """What train.py does."""
    config = tiny.command_line(
        "-c", folder / "config.json", "--set", f"trainer.save_dir={folder / 'runs'}"
    )
    here, optim = tiny.HERE, torch.optim
    parts = {
        "arch": here,
        "loss": here,
        "metrics": here,
        "data_loader": here,
        "valid_data_loader": here,
    }
    config.check(**parts, optimizer=optim, lr_scheduler=optim.lr_scheduler)
    loader = config.init_obj("data_loader", here)
    valid = config.init_obj("valid_data_loader", here) or loader.split_validation()
    model = config.init_obj("arch", here)
    criterion, metrics = config.init_ftn("loss", here), config.init_ftns("metrics", here)
    optimizer = init_optimizer(config, model)
    scheduler = init_scheduler(config, optimizer, len(loader))
    device = torch.device("cpu")
    trainer = tiny.Trainer(
        model, criterion, metrics, optimizer, config, device, loader, valid, scheduler
    )
    trainer.train()
    return trainer


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(mutated())
def test_a_mistake_is_told_or_harmless(text):
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "config.json").write_text(text)
        try:
            trainer = run(folder)
        except UserError as error:
            if error.exit_code == 5:  # no mistake in the config's form: it trained, and diverged
                return
            assert error.exit_code in (2, 3), error
            assert not (folder / "runs").exists(), error
            assert len(str(error)) > 0 and "pydantic" not in str(error)
        else:
            assert list(trainer.checkpoint_dir.glob("checkpoint-*.pth"))
    finally:
        shutil.rmtree(folder)
