"""`trainer.checkpoint: "sharded"`: each process writes its part, and any number reads it."""

import json

import pytest
import test_by_name
import test_sharding
import torch

import ranks
import tiny
from exact import Exact, furthest
from machinery.checkpoints import file as checkpoint, manifest, shards, stored
from machinery.update.runtime import unwrap
from machinery.update.sharding import full, is_sharded, local

SHARDED = {"trainer__checkpoint": "sharded"}
LATER = {**SHARDED, "trainer__async_save": True}


def settings(folder, strategy=None, **changes):
    return test_sharding.settings(folder, strategy, **{**SHARDED, **changes})


def trained(config, resume=None):
    """What the newest checkpoint holds, and the rows of the epochs."""
    trainer = tiny.as_train_py(config, resume, trainer_class=Exact)
    trainer.train()
    path = tiny.newest(trainer.checkpoint_dir)
    assert path.is_dir() == (config["trainer"].get("checkpoint") == "sharded")
    return stored.load(path), tiny.rows(trainer)


def run(folder, size, config, resume=None):
    return ranks.run(folder, size, trained, config, resume)[0]


def equal(one, other):
    """Bit for bit."""
    (first, rows), (second, others) = one, other
    assert furthest(first["state_dict"], second["state_dict"]) == 0
    states = [each["optimizer"]["state"] for each in (first, second)]
    assert states[0].keys() == states[1].keys() and states[0]
    for key, state in states[0].items():
        assert all(torch.equal(value, states[1][key][name]) for name, value in state.items())
    assert first["structures"] == second["structures"]
    assert first["states"].keys() == second["states"].keys()
    assert rows == others


@pytest.mark.parametrize("size, strategy", [(1, None), (2, None), (2, "fsdp"), (3, "fsdp")])
@pytest.mark.parametrize("how", [SHARDED, LATER])
def test_it_holds_what_a_file_does(tmp_path, size, strategy, how):
    changes = {"trainer__ema": 0.5}
    changes["optimizer"] = {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}
    one = test_sharding.settings(tmp_path / "file", strategy, **changes)
    other = settings(tmp_path / "folder", strategy, **how, **changes)
    equal(run(tmp_path, size, other), run(tmp_path, size, one))


def test_a_weight_by_two_names_stays_one(tmp_path):
    for size, strategy in ((1, None), (2, "fsdp")):
        changes = {"arch__type": "Tied", "trainer__ema": 0.5}
        one = test_sharding.settings(tmp_path / f"file{size}", strategy, **changes)
        other = settings(tmp_path / f"folder{size}", strategy, **changes)
        content, rows = run(tmp_path, size, other)
        equal((content, rows), run(tmp_path, size, one))


WAYS = [
    ((2, "fsdp"), (1, None)),
    ((1, None), (2, "fsdp")),
    ((2, "fsdp"), (3, "fsdp")),
    ((3, "fsdp"), (2, None)),
]


@pytest.mark.parametrize("before, after", WAYS)
@pytest.mark.parametrize("kinds", [(SHARDED, SHARDED), (SHARDED, {}), ({}, LATER)])
def test_a_run_goes_on_on_others(tmp_path, before, after, kinds):
    """Inside an epoch; from a folder, or from a file."""
    alone = run(tmp_path, 1, test_sharding.settings(tmp_path / "one"))
    config = test_sharding.settings(tmp_path / "part", before[1], **kinds[0])
    path = ranks.run(tmp_path, before[0], test_sharding.stopped, config, 2)[0]
    assert path.is_dir() == bool(kinds[0])
    config = test_sharding.settings(tmp_path / "part", after[1], **kinds[1])
    test_sharding.same(run(tmp_path, after[0], config, path), alone)


@pytest.mark.parametrize("how", [SHARDED, LATER])
def test_a_resume_inside_an_epoch_is_bit_for_bit(tmp_path, how):
    config = settings(tmp_path / "whole", "fsdp", **how)
    whole = run(tmp_path, 2, config)
    config = settings(tmp_path / "part", "fsdp", **how)
    path = ranks.run(tmp_path, 2, test_sharding.stopped, config, 5)[0]
    assert path.name == "checkpoint-epoch2-step6.sharded"
    equal(run(tmp_path, 2, config, path), whole)


def hashed(path):
    """How often this process looks through a whole checkpoint, until it is restored."""
    count = []
    for module, name in ((checkpoint, "damage"), (manifest, "digest")):
        function = getattr(module, name)

        def counted(*args, function=function):
            count.append(args)
            return function(*args)

        setattr(module, name, counted)
    tiny.build(tiny.command_line("-r", path), trainer_class=Exact).restore()
    return len(count)


@pytest.mark.parametrize("how", [SHARDED, {}])
def test_one_process_of_a_machine_hashes_what_all_read(tmp_path, how):
    trainer = tiny.as_train_py(test_sharding.settings(tmp_path, **how), trainer_class=Exact)
    trainer.train()
    path = tiny.newest(trainer.checkpoint_dir)
    files = len(list(path.glob("[cs]*"))) if how else 1
    assert ranks.run(tmp_path, 2, hashed, path) == [files, 0]


def by_name(folder, strategy=None, **changes):
    """Of a model that no process has whole."""
    changes = {"arch__type": "Plain", "trainer__ema": 0.5, **SHARDED, **changes}
    return test_by_name.settings(folder, strategy, **changes)


def largest_read(config, path):
    """How many numbers of a weight this process reads at most, of those that the weight has."""
    sizes = []
    read = shards._read

    def noted(tensors, folder):
        for name, tensor in tensors.items():
            sizes.append((local(tensor).numel() / max(tensor.numel(), 1), is_sharded(tensor), name))
        read(tensors, folder)

    shards._read = noted
    trainer = tiny.as_train_py(config, path, trainer_class=Exact)
    trainer.restore()
    return sizes


@pytest.mark.parametrize("how", [SHARDED, LATER])
def test_a_model_by_name_goes_on_bit_for_bit(tmp_path, how):
    config = by_name(tmp_path / "whole", "fsdp", **how)
    whole = run(tmp_path, 2, config)
    config = by_name(tmp_path / "part", "fsdp", **how)
    path = ranks.run(tmp_path, 2, test_sharding.stopped, config, 5)[0]
    assert path.suffix == ".sharded"
    for sizes in ranks.run(tmp_path, 2, largest_read, config, path):
        parts = [share for share, sharded, _ in sizes if sharded]
        assert len(parts) > 60 and max(parts) < 0.7
        whole_ones = [name for _, sharded, name in sizes if not sharded]
        assert not [name for name in whole_ones if name.endswith(("weight", "momentum_buffer"))]
    equal(run(tmp_path, 2, config, path), whole)


def test_a_model_by_name_goes_on_on_others(tmp_path):
    """Two, one, three; inside an epoch."""
    alone = run(tmp_path, 1, by_name(tmp_path / "one"))
    config = by_name(tmp_path / "part", "fsdp")
    path = ranks.run(tmp_path, 2, test_sharding.stopped, config, 2)[0]
    path = ranks.run(tmp_path, 1, test_sharding.stopped, by_name(tmp_path / "part"), 2, path)[0]
    test_sharding.same(run(tmp_path, 3, by_name(tmp_path / "part", "fsdp"), path), alone)


def begun(config, path):
    """The weights of a run that begins with those of another, and of an evaluation of it."""
    trainer = tiny.build(tiny.command_line("-c", config, "-r", path))
    trainer.restore()
    return {name: full(value) for name, value in unwrap(trainer.model).state_dict().items()}


def begun_with(config):
    """The weights of a run that names those of another as `arch.weights`."""
    trainer = tiny.build(tiny.command_line("-c", config))
    trainer.restore()
    return {name: full(value) for name, value in unwrap(trainer.model).state_dict().items()}


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_begins_with_a_folders_weights(tmp_path, strategy, ema):
    config = by_name(tmp_path, strategy, trainer__ema=ema, trainer__epochs=1)
    path = ranks.run(tmp_path, 2, saved_at, config)[0]
    new = {**config, "trainer": {**config["trainer"], "ema": None, "checkpoint": "file"}}
    (tmp_path / "new.json").write_text(json.dumps(new))
    found = ranks.run(tmp_path, 2, begun, tmp_path / "new.json", path)
    expected = stored.load(path)["state_dict"]
    if ema:
        states = stored.load(path)["states"]["ema"]
        expected = {name: states[f"module.{name}"] for name in expected}
    new["arch"]["weights"] = str(path)
    (tmp_path / "other.json").write_text(json.dumps(new))
    found += ranks.run(tmp_path, 2, begun_with, tmp_path / "other.json")
    found += ranks.run(tmp_path, 1, begun_with, tmp_path / "other.json")
    for weights in found:
        assert furthest({k: v.double() for k, v in weights.items()}, expected) < 1e-6


def saved_at(config):
    trainer = tiny.as_train_py(config, trainer_class=Exact)
    trainer.train()
    return tiny.newest(trainer.checkpoint_dir)
