"""A checkpoint that is a folder: whole or not there, and any change to it is found."""

import json
import os
import random
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import forked
import tiny
from machinery.checkpoints import file as checkpoint, manifest, run_folder, shards, stored
from machinery.checkpoints.later import Copies
from machinery.checkpoints.structure import difference
from machinery.errors import CheckpointError, ConfigError, StorageError
from machinery.files import ROOT
from machinery.launch import read_run

SHARDED = {"trainer__checkpoint": "sharded"}


def settings(folder, **changes):
    return tiny.settings(folder, **{**SHARDED, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three epochs."""
    return tiny.train(settings(tmp_path_factory.mktemp("run"))).checkpoint_dir


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it that may be damaged."""
    place = tmp_path / "models" / "Tiny" / whole.name
    shutil.copytree(whole, place)
    return place


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".pth", ".sharded"))


def test_it_holds_what_a_file_does(tmp_path, whole):
    trainer = tiny.train(tiny.settings(tmp_path))
    for epoch in (1, 2, 3):
        ours = stored.load(whole / f"checkpoint-epoch{epoch}.sharded")
        theirs = stored.load(trainer.checkpoint_dir / f"checkpoint-epoch{epoch}.pth")
        for part in ("state_dict", "optimizer", "states", "structures", "classes", "arch", "epoch"):
            assert difference(ours[part], theirs[part]) == "", part
        assert ours["state_dict"]._metadata == theirs["state_dict"]._metadata
    best = run_folder.best(whole)
    assert best.name == f"model_best-epoch{trainer.monitor.best_epoch}.sharded"
    assert len(names(whole)) == 4


def test_a_run_goes_on_bit_for_bit(tmp_path):
    config = settings(tmp_path / "whole", trainer__accumulate=2)
    expected = tiny.train(config)
    config = settings(tmp_path / "part", trainer__accumulate=2)
    path = tiny.interrupted(config, 9)
    assert path.name == "checkpoint-epoch1-step10.sharded"
    again = tiny.train(config, resume=path)
    assert tiny.digest(again.model) == tiny.digest(expected.model)
    assert tiny.rows(again) == tiny.rows(expected)


@pytest.mark.parametrize("kinds", [("file", "sharded"), ("sharded", "file")])
def test_a_run_changes_from_one_kind_to_the_other(tmp_path, kinds):
    """The best of one kind is in the place of that of the other."""
    values = [5.0, 3.0, 2.0, 1.0]
    expected = tiny.train(
        tiny.settings(tmp_path / "whole", trainer__epochs=4),
        trainer_class=tiny.best_by_epoch(values),
    )
    config = settings(tmp_path / "part", trainer__epochs=2, trainer__checkpoint=kinds[0])
    first = tiny.train(config, trainer_class=tiny.best_by_epoch(values))
    config["trainer"].update(epochs=4, checkpoint=kinds[1], keep_last=2)
    path = tiny.newest(first.checkpoint_dir)
    last = tiny.train(config, resume=path, trainer_class=tiny.best_by_epoch(values))
    assert tiny.digest(last.model) == tiny.digest(expected.model)
    ends = {"file": ("pth", "model_best.pth"), "sharded": ("sharded", "model_best-epoch4.sharded")}
    end, best = ends[kinds[1]]
    kept = [f"checkpoint-epoch3.{end}", f"checkpoint-epoch4.{end}", best]
    assert names(last.checkpoint_dir) == kept


def test_the_best_alone_is_written_between_periods(tmp_path):
    values = [5.0, 3.0, 4.0, 2.0, 3.0]
    config = settings(tmp_path, trainer__epochs=5, trainer__save_period=3)
    trainer = tiny.train(config, trainer_class=tiny.best_by_epoch(values))
    kept = ["checkpoint-epoch3.sharded", "checkpoint-epoch5.sharded", "model_best-epoch4.sharded"]
    assert names(trainer.checkpoint_dir) == kept
    assert trainer.config.run.state() == "finished"


def test_a_run_that_goes_back_sets_later_ones_aside(folder):
    path = folder / "checkpoint-epoch1.sharded"
    parser = tiny.command_line("-r", path)
    tiny.build(parser).train()
    kept = names(folder)
    assert [f"checkpoint-epoch{epoch}.sharded" for epoch in (1, 2, 3)] == kept[:3]
    old = sorted(each.name for each in folder.glob("*.old"))
    assert old[:2] == ["checkpoint-epoch2.sharded.old", "checkpoint-epoch3.sharded.old"]


def every_file(path):
    return sorted(path.iterdir())


def test_any_flipped_bit_is_found(folder, pytestconfig):
    """In each file; at random places, at the first and the last bytes."""
    path = folder / "checkpoint-epoch3.sharded"
    draw = random.Random(1)
    flips = 0
    for file in every_file(path):
        content = file.read_bytes()
        places = [0, 1, len(content) - 1, *(draw.randrange(len(content)) for _ in range(60))]
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match="is damaged"):
                stored.load(path)
            flips += 1
        file.write_bytes(content)
    assert stored.damage(path) is None and flips > 150


def test_any_cut_or_missing_or_foreign_file_is_found(folder):
    path = folder / "checkpoint-epoch3.sharded"
    for file in every_file(path):
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        assert stored.damage(path)
        file.unlink()
        assert stored.damage(path)
        file.write_bytes(content)
    other = folder / "checkpoint-epoch2.sharded"
    for file in every_file(other):
        content = (path / file.name).read_bytes()
        shutil.copy(file, path / file.name)
        assert stored.damage(path)
        (path / file.name).write_bytes(content)
    (path / "shard-00002-model-00001-of-00001.safetensors").write_bytes(b"x")
    assert "not in its manifest.json" in stored.damage(path)


def test_a_run_falls_back_to_what_is_whole(folder, messages):
    path = folder / "checkpoint-epoch3.sharded"
    (path / "content.json").write_text("{}")
    shutil.rmtree(run_folder.best(folder))
    parser = tiny.command_line("-r", folder)
    assert parser.resume.name == "checkpoint-epoch2.sharded"
    told = messages()
    assert "content.json does not match its checksum" in told
    assert "falling back to checkpoint-epoch2.sharded: 1 epoch to do again" in told


def signed(path):
    """Give a folder that was changed a manifest that fits: no accident, but somebody's doing."""
    found = {file.name: manifest.digest(file) for file in path.iterdir()}
    found.pop(manifest.NAME, None)
    manifest.write(path, found)


def edited(path, old, new):
    text = (path / "content.json").read_text()
    assert old in text
    (path / "content.json").write_text(text.replace(old, new, 1))
    signed(path)


HOSTILE = [
    ('"fc1.weight"', '"fc1.other"'),
    ("[12, 6]", "[12, 7]"),
    ("[12, 6]", "[1000000000000, 6]"),
    ("float32", "float64"),
    ("float32", "nothing"),
    ('"epoch": 3', '"epoch": "3"'),
    ('"epoch": 3', '"epoch": 0'),
    ('"format_version": 1', '"format_version": 99'),
    ('"epoch": 3', '"epoch": ' + "[" * 100_000 + "]" * 100_000),
    ('"epoch": 3', '"epoch": {"$tensor": ["a", "float32", {}]}'),
    ('"epoch": 3', '"epoch": NaN'),
    (
        "{",
        "",
    ),
]


@pytest.mark.parametrize("old, new", HOSTILE)
def test_a_hostile_content_is_told_in_a_line(folder, old, new):
    path = folder / "checkpoint-epoch3.sharded"
    edited(path, old, new)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_of = stored.load(path)
        parser = tiny.command_line("-r", path)
        assert checkpoint_of
        tiny.build(parser).train()
    assert len(str(caught.value).splitlines()) <= 4


def test_a_part_that_is_missing_is_told(folder):
    """The lower half of a weight alone: where nothing is, there would be anything."""
    path = folder / "checkpoint-epoch3.sharded"
    (file,) = path.glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = "state_dict/fc1.weight"
    places = json.loads(metadata["DCP_SHARDING_INFO"])
    assert places[name]["saved_offsets"] == [0, 0]
    places[name]["saved_offsets"] = [6, 0]
    metadata["DCP_SHARDING_INFO"] = json.dumps(places)
    tensors[name] = tensors[name][6:].contiguous()
    save_file(tensors, file, metadata)
    signed(path)
    with pytest.raises(CheckpointError, match=r"have no tensor state_dict/fc1\.weight"):
        stored.load(path)


def test_a_folder_of_something_else_is_told(tmp_path, folder):
    (tmp_path / "x.sharded").mkdir()
    with pytest.raises(CheckpointError, match=r"it has no manifest\.json"):
        stored.load(tmp_path / "x.sharded")
    path = folder / "checkpoint-epoch3.sharded"
    file = path / "content.json"
    file.rename(tmp_path / "content.json")
    file.symlink_to(tmp_path / "content.json")
    with pytest.raises(CheckpointError, match="is no regular file"):
        stored.load(path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match="is no regular file"):
        stored.load(path)


def parted(path, parts):
    """Let a folder have the weight of 12 rows of 6 in parts: where each begins, and its rows."""
    name = "state_dict/fc1.weight"
    file = next(path.glob("*.safetensors"))
    tensors = load_file(file)
    weight = tensors.pop(name)
    save_file(tensors, file)
    for number, (begin, rows) in enumerate(parts, 2):
        info = json.dumps({name: {"saved_offsets": begin}})
        save_file(
            {name: weight[:rows].clone()},
            path / f"shard-{number:05d}-model-00001-of-00001.safetensors",
            {"DCP_SHARDING_INFO": info},
        )
    signed(path)


@pytest.mark.parametrize("begins", [(3, 6), (-6, 0), (-1, 6), (0, 5), (6, 6)])
def test_parts_that_overlap_or_leave_a_gap_are_told(folder, begins):
    """What no part covers would be whatever the memory holds."""
    path = folder / "checkpoint-epoch3.sharded"
    parted(path, [([begin, 0], 6) for begin in begins])
    for mmap in (False, True):
        with pytest.raises(CheckpointError, match=r"have no tensor state_dict/fc1\.weight"):
            stored.load(path, mmap=mmap)


def test_parts_beside_each_other_are_a_whole(folder):
    path = folder / "checkpoint-epoch3.sharded"
    weight = stored.load(path)["state_dict"]["fc1.weight"]
    parted(path, [([8, 0], 4), ([0, 0], 8)])
    expected = torch.cat([weight[:8], weight[:4]])
    assert torch.equal(stored.load(path)["state_dict"]["fc1.weight"], expected)


def test_a_part_of_one_and_one_of_another_name_are_told(folder):
    path = folder / "checkpoint-epoch3.sharded"
    for part in path.iterdir():
        with pytest.raises(CheckpointError, match="is a part of a checkpoint: name the folder"):
            read_run(part)
    renamed = path.rename(folder / "copied")
    with pytest.raises(CheckpointError, match=r"lost its \.sharded: rename it"):
        read_run(renamed)


def test_a_pickle_in_it_is_never_read(folder):
    path = folder / "checkpoint-epoch3.sharded"
    (path / ".metadata").write_bytes(b"\x80\x04cposix\nsystem\n(X\x04\x00\x00\x00exittR.")
    signed(path)
    stored.load(path)  # nobody has asked for it


def command(config, run_id, kill_at=0, report=None):
    killer = forked.KillAt(kill_at)
    sys.setprofile(killer)
    tiny.build(tiny.command_line("-c", config, "--run_id", run_id, "-r", "auto")).train()
    sys.setprofile(None)
    if report is not None:
        report.write_text(str(killer.count))


def outcome(folder):
    path, content, _ = run_folder.newest_whole(folder)
    weights = {name: value.numpy().tobytes() for name, value in content["state_dict"].items()}
    best = stored.load(run_folder.best(folder))["epoch"]
    return path.name, weights, repr(content["optimizer"]), content["monitor_best"], best


def killed(tmp_path, runs, patience, **changes):
    """How many kills so many runs have survived, whose outcome is that of the unbroken one."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings(tmp_path, **changes)))
    report = tmp_path / "instants"
    assert forked.finish(forked.start(command, config, "unbroken", 0, report)) == 0
    instants = int(report.read_text())
    models = tmp_path / "models" / "Tiny"
    expected = outcome(models / "unbroken")
    kills = 0
    for number in range(runs):
        draw = random.Random(number)
        folder = models / f"run{number}"
        for count in range(1000):
            at = draw.randint(1, int(instants * draw.choice([0.05, 0.3, 1.0])))
            at += count * instants // patience
            code = forked.finish(forked.start(command, config, folder.name, at))
            for path in folder.glob("*.sharded"):
                assert stored.damage(path) is None, path
            if code == 0:
                break
            assert code == -9
            kills += 1
        assert outcome(folder) == expected
        assert not list(folder.glob("*.tmp"))
    return kills


KINDS = [
    {"trainer__save_step": 3, "trainer__accumulate": 2, "trainer__keep_last": 2},
    {"trainer__save_step": 4, "trainer__async_save": True},
]


@pytest.mark.parametrize("kind", [0, 1])
def test_a_run_survives_kills(tmp_path, kind):
    assert killed(tmp_path, 1, 4, **KINDS[kind]) > 0


@pytest.mark.soak
@pytest.mark.parametrize("kind", [0, 1])
def test_many_runs_survive_many_kills(tmp_path, kind):
    kills = killed(tmp_path, 10, 20, **KINDS[kind])
    print(f"kind {kind}: {kills} kills")
    assert kills >= 30


def test_what_it_cannot_hold_is_refused_at_the_start(tmp_path):
    class Sparse(tiny.TinyModel):
        def __init__(self):
            super().__init__()
            self.register_buffer("odd", torch.eye(3, dtype=torch.complex128))

    config = settings(tmp_path)
    parser = tiny.ConfigParser(config)
    loader = parser.init_obj("data_loader", tiny)
    model = Sparse()
    trainer = tiny.Trainer(
        model,
        tiny.cross_entropy,
        [],
        torch.optim.SGD(model.parameters(), 0.1),
        parser,
        torch.device("cpu"),
        loader,
        loader.split_validation(),
    )
    with pytest.raises(CheckpointError, match="model has a tensor of complex128"):
        trainer.train()
    with pytest.raises(ConfigError, match=r'trainer\.save "trained" leaves some out'):
        tiny.build(settings(tmp_path / "no", trainer__save="trained"))
    assert not (tmp_path / "no").exists()


def test_one_that_was_about_to_be_replaced_is_named(tmp_path):
    """Where a kill came between the two renames, and no other checkpoint is there."""
    config = settings(tmp_path, trainer__epochs=1, trainer__monitor="off")
    folder = tiny.train(config).checkpoint_dir
    path = folder / "checkpoint-epoch1.sharded"
    old = path.rename(folder / "checkpoint-epoch1.sharded.old")
    with pytest.raises(CheckpointError, match=r"but checkpoint-epoch1.sharded.old, .*: rename it$"):
        run_folder.newest_whole(folder)
    old.rename(path)
    assert run_folder.newest_whole(folder)[0] == path


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    config = settings(tmp_path, trainer__epochs=1)
    folder = tiny.train(config).checkpoint_dir
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save", full)
    config["trainer"]["epochs"] = 2
    with pytest.raises(StorageError) as caught:
        tiny.train(config, resume=folder / "checkpoint-epoch1.sharded")
    told = str(caught.value)
    assert "checkpoint-epoch2.sharded: No space left on device" in told
    assert "checkpoint-epoch1.sharded is intact" in told
    assert before == {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    assert not list(folder.glob("*.tmp")) and len(names(folder)) == 2


def test_a_file_in_its_place_is_not_replaced(tmp_path, whole):
    content = stored.load(whole / "checkpoint-epoch1.sharded")
    (tmp_path / "a.sharded").write_text("mine")
    with pytest.raises(StorageError, match="is not a folder: it is not replaced"):
        shards.save(content, tmp_path / "a.sharded")
    (tmp_path / "b.sharded").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="is a link, and is not written to"):
        shards.save(content, tmp_path / "b.sharded")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.sharded", "b.sharded"]


def test_the_same_name_again_is_the_new_one(tmp_path, whole):
    first = stored.load(whole / "checkpoint-epoch1.sharded")
    second = stored.load(whole / "checkpoint-epoch2.sharded")
    path = tmp_path / "a.sharded"
    shards.save(first, path)
    shards.save(second, path)
    assert stored.load(path)["epoch"] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["a.sharded"]


def test_files_and_folders_become_each_other(tmp_path, whole):
    source = whole / "checkpoint-epoch3.sharded"
    content = stored.load(source)
    checkpoint.save(content, tmp_path / "a.pth")
    stored.save(stored.load(tmp_path / "a.pth"), tmp_path / "b.sharded")
    back = stored.load(tmp_path / "b.sharded")
    assert difference(dict(back), dict(content)) == ""
    assert sorted(each.name for each in (tmp_path / "b.sharded").iterdir()) == sorted(
        each.name for each in source.iterdir()
    )


def test_a_conjugate_is_no_second_name(tmp_path):
    """It lies in the memory of the other."""
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    state = {
        "one": numbers,
        "conjugate": numbers.conj(),
        "parts": (numbers.imag, numbers.conj().imag, numbers[:1].conj().imag),
    }
    path = tmp_path / "a.sharded"
    shards.save(state, path)
    assert difference(shards.load(path), state) == ""
    assert difference(Copies().of(state), state) == ""


def test_one_number_of_many_is_a_tensor(tmp_path, monkeypatch):
    """A view of one number may have any stride."""
    view = torch.arange(6.0).reshape(2, 3)[:1, 1]
    assert view.stride() == (3,)

    class Viewing(tiny.TinyModel):
        def __init__(self):
            super().__init__()
            self.register_buffer("one", view)

    Viewing.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Viewing", Viewing, raising=False)
    for kind in ("file", "sharded"):
        config = settings(tmp_path / kind, arch__type="Viewing", trainer__checkpoint=kind)
        trainer = tiny.train(config)
        assert stored.load(tiny.newest(trainer.checkpoint_dir))["state_dict"]["one"] == view


def test_the_tools_read_it(tmp_path, whole):
    """As they read a file."""
    source = whole / "checkpoint-epoch3.sharded"
    tool = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py")]
    run = partial(subprocess.run, capture_output=True, text=True)
    assert "epoch 3" in run([*tool, source, tmp_path / "a.pth"]).stdout
    assert run([*tool, tmp_path / "a.pth", tmp_path / "b.sharded"]).returncode == 0
    same = [sys.executable, str(ROOT / "tools" / "same.py")]
    for name in ("a.pth", "b.sharded"):
        assert "the same to the bit" in run([*same, source, tmp_path / name]).stdout
    told = run([*tool, source, tmp_path / "a.pth"])
    assert told.returncode == 4 and "exists: choose another name" in told.stderr
    assert stored.damage(tmp_path / "b.sharded") is None


def test_what_the_disk_has_made_of_it_is_read_back(tmp_path, whole, monkeypatch):
    import safetensors.torch

    content = stored.load(whole / "checkpoint-epoch1.sharded")
    write = safetensors.torch.save

    def flipped(*args, **kwargs):
        text = bytearray(write(*args, **kwargs))
        text[-1] ^= 1
        return bytes(text)

    monkeypatch.setattr("safetensors.torch.save", flipped)
    with pytest.raises(StorageError, match="read back, it is damaged"):
        shards.save(content, tmp_path / "a.sharded")
    assert not list(tmp_path.iterdir())


def test_of_two_bests_the_newer_counts_until_the_other_is_removed(folder):
    """A kill has come between the renaming of the new one and the removal of the old one."""
    best = run_folder.best(folder)
    shards.copy(folder / "checkpoint-epoch1.sharded", folder / "model_best-epoch1.sharded")
    assert run_folder.bests(folder) == [folder / "model_best-epoch1.sharded", best]
    assert run_folder.best(folder) == best == read_run(folder)[1].checkpoint
    run_folder.keep_best(best)
    assert run_folder.bests(folder) == [best]


def test_what_is_not_asked_for_is_not_imported(tmp_path):
    code = (
        "import sys, tiny\n"
        f"tiny.train(tiny.settings({str(tmp_path)!r}, trainer__epochs=1))\n"
        "wanted = ('torch.distributed.checkpoint', 'safetensors')\n"
        "print([name for name in wanted if name in sys.modules])\n"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    environment = {**os.environ, "PYTHONPATH": paths}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert told.stdout.splitlines()[-1] == "[]", told.stderr
