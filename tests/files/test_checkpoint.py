"""Checkpoint files: every flipped bit is found, no code runs, nothing is half-written."""

import collections
import enum
import io
import os
import pickle
import random
import signal
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from machinery import files
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.config import trust
from machinery.errors import CheckpointError, StorageError
from machinery.plain_data import plain

STATE = {
    "format_version": 1,
    "arch": "TinyModel",
    "epoch": 1,
    "state_dict": collections.OrderedDict(
        w=torch.arange(50.0), b=torch.ones(3, dtype=torch.float64)
    ),
    "optimizer": {
        "state": {0: {"step": torch.tensor(3.0)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}],
    },
    "monitor_best": float("inf"),
    "config": {"name": "x"},
    "progress": {"step": None, "finished": False, "lr": 0.1},
}


def saved(folder, name="checkpoint-epoch1.pth", **changes):
    path = folder / name
    checkpoint.save({**STATE, **changes}, path)
    return path


def test_round_trip(tmp_path):
    state = checkpoint.load(saved(tmp_path))
    assert torch.equal(state["state_dict"]["w"], STATE["state_dict"]["w"])
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint-epoch1.pth"]
    torch.load(
        tmp_path / "checkpoint-epoch1.pth", weights_only=True, mmap=True
    )  # a plain torch file to others


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.soak)])
def test_every_flipped_bit_is_found(tmp_path, count):
    path = saved(tmp_path)
    whole = path.read_bytes()
    chance = random.Random(1)
    # Everywhere once in the last bytes (the checksum and its length), and at random.
    bits = [
        *range(8 * (len(whole) - 80), 8 * len(whole), 7),
        *(chance.randrange(8 * len(whole)) for _ in range(count)),
    ]
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.soak)])
def test_every_truncation_is_found(tmp_path, count):
    path = saved(tmp_path)
    whole = path.read_bytes()
    chance = random.Random(2)
    for length in [
        0,
        1,
        21,
        100,
        len(whole) - 1,
        *(chance.randrange(len(whole)) for _ in range(count)),
    ]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


def test_the_damaged_record_is_named(tmp_path):
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(torch.arange(50.0).numpy().tobytes())
    content[at + 5] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged: .* \(record .*/data/\d\)"):
        checkpoint.load(path)


class Color(enum.IntEnum):
    RED = 3


def test_plain_data_is_converted_and_the_rest_named():
    value = {
        "a": np.float64(2.5),
        "b": np.arange(3),
        "c": Path("x"),
        "d": [Color.RED, (1, None)],
        "e": np.int32(1),
    }
    copied = plain(value)
    assert copied["a"] == 2.5 and type(copied["a"]) is float
    assert torch.equal(copied["b"], torch.arange(3))
    assert copied["c"] == "x" and type(copied["d"][0]) is int and type(copied["e"]) is int
    with pytest.raises(CheckpointError, match=r"state.deep\[1\].f is a test_checkpoint.Odd"):
        plain({"deep": [0, {"f": Odd()}]})


class Odd:
    pass


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def hostile_files(folder):
    """Files that want to run `touch MARKER` or to mislead, by name."""
    command = f"touch {folder / 'MARKER'}"
    evil = Evil(command)
    torch.save({**STATE, "state_dict": evil}, folder / "zip.pth")
    torch.save({**STATE, "optimizer": {"state": {0: evil}}}, folder / "optimizer.pth")
    torch.save({**STATE, "config": [evil]}, folder / "config.pth")
    torch.save(evil, folder / "bare.pth")
    torch.save(
        {**STATE, "state_dict": evil}, folder / "legacy.pth", _use_new_zipfile_serialization=False
    )
    (folder / "pickle.pth").write_bytes(pickle.dumps(evil))
    (folder / "text-pickle.pth").write_bytes(pickle.dumps(evil, protocol=0))
    torch.save({**STATE, "state_dict": torch.nn.Linear(2, 2)}, folder / "module.pth")
    rewritten(
        folder, "compressed.pth", lambda name, data: (name, data), compression=zipfile.ZIP_DEFLATED
    )
    rewritten(
        folder, "outside.pth", lambda name, data: (name.replace("data/0", "../../evil"), data)
    )
    rewritten(
        folder,
        "absolute.pth",
        lambda name, data: ("/tmp/evil" if name.endswith("data/0") else name, data),
    )
    rewritten(
        folder, "bomb.pth", lambda name, data: (name, data * 1000), compression=zipfile.ZIP_DEFLATED
    )
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewritten(folder, "duplicate.pth", lambda name, data: ("archive/data.pkl", data))
    # Whole by its checksum, but with code inside.
    checkpoint_with_code(folder / "signed.pth", evil)
    return sorted(path.name for path in folder.glob("*.pth"))


def rewritten(folder, name, change, compression=zipfile.ZIP_STORED):
    torch.save(STATE, folder / "source.tmp")
    with (
        zipfile.ZipFile(folder / "source.tmp") as source,
        zipfile.ZipFile(folder / name, "w", compression) as target,
    ):
        for entry in source.infolist():
            target.writestr(*change(entry.filename, source.read(entry)))
    (folder / "source.tmp").unlink()


def checkpoint_with_code(path, evil):
    with open(path, "wb") as file:
        hashing = checkpoint._HashingFile(file)
        torch.save({**STATE, "state_dict": evil}, hashing)
        hashing.finish()


@pytest.mark.parametrize("unsafe_default", [False, True])
def test_no_code_runs(tmp_path, monkeypatch, unsafe_default):
    if unsafe_default:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    names = hostile_files(tmp_path)
    assert len(names) >= 12
    for name in names:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(tmp_path / name)
        assert caught.value.exit_code == 4
        assert name in str(caught.value)
    assert not (tmp_path / "MARKER").exists()
    with pytest.raises(
        CheckpointError, match=r"refused: .*signed.pth contains globals \[posix.system\]"
    ):
        checkpoint.load(tmp_path / "signed.pth")


def test_compressed_entries_are_refused_also_with_a_right_checksum(tmp_path):
    rewritten(tmp_path, "unsigned.zip", lambda *entry: entry, compression=zipfile.ZIP_DEFLATED)
    path = tmp_path / "signed.pth"
    with open(path, "wb") as file:
        hashing = checkpoint._HashingFile(file)
        hashing.write((tmp_path / "unsigned.zip").read_bytes())
        hashing.finish()
    assert checkpoint.damage(path) is None
    with pytest.raises(CheckpointError, match="has compressed entries"):
        checkpoint.load(path)


def foreign(folder):
    (folder / "text.pth").write_text("hello")
    (folder / "json.pth").write_text("{}")
    (folder / "empty.pth").write_bytes(b"")
    with zipfile.ZipFile(folder / "zip.pth", "w") as archive:
        archive.writestr("a.txt", "x")
    with open(folder / "state_dict.pth", "wb") as file:
        hashing = checkpoint._HashingFile(file)
        torch.save(STATE["state_dict"], hashing)
        hashing.finish()
    torch.save(STATE, folder / "unsigned.pth")
    saved(folder, "newer.pth", format_version=99)
    (folder / "folder.pth").mkdir()


@pytest.mark.parametrize(
    "name, message",
    [
        ("text", "not a checkpoint"),
        ("json", "not a checkpoint"),
        ("empty", "is empty"),
        ("zip", "a zip file of something else"),
        ("state_dict", "a bare state_dict"),
        ("unsigned", "not written by this template"),
        ("newer", "has format 99, this code reads up to 1"),
        ("folder", "not a file"),
        ("missing", "does not exist"),
    ],
)
def test_foreign_files_are_told_in_one_line(tmp_path, name, message):
    foreign(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(tmp_path / f"{name}.pth")
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = saved(tmp_path)
    before = path.read_bytes()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {**STATE, "state_dict": {"w": torch.zeros(100_000)}}

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            StorageError, match=r"could not write .*checkpoint-epoch1.pth: File too large"
        ):
            checkpoint.save(big, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Flipping(io.FileIO):
    """A disk that writes the first bit wrong."""

    def write(self, data):
        content = bytearray(data)
        if content and self.tell() == 0:
            content[0] ^= 1
        return super().write(content)


@pytest.mark.parametrize("copied", [False, True])
def test_what_was_written_wrong_does_not_replace_what_was_there(tmp_path, monkeypatch, copied):
    path, source = saved(tmp_path), saved(tmp_path, "source.pth", epoch=2)
    before = path.read_bytes()
    monkeypatch.setattr(files, "_opened", Flipping)
    with pytest.raises(StorageError, match=r"could not write .*checkpoint-epoch1.pth: .* damaged"):
        if copied:
            checkpoint.copy(source, path)
        else:
            checkpoint.save({**STATE, "epoch": 2}, path)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path, source]


@pytest.fixture
def done(monkeypatch):
    """What has been synced and renamed, in order."""
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        found = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        fsync(descriptor)

    def replaced(source, target):
        events.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return events


@pytest.mark.parametrize("how", ["saved", "copied", "as JSON"])
def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_after(tmp_path, done, how):
    path = tmp_path / "new.pth"
    if how == "saved":
        checkpoint.save(STATE, path)
    elif how == "copied":
        source = saved(tmp_path)
        done.clear()
        checkpoint.copy(source, path)
    else:
        files.write_json({"a": 1}, path)
    assert done[-3:] == [path.stat().st_size, "renamed", "folder"]
    assert done.count("renamed") == 1


def test_what_is_no_regular_file_is_not_replaced():
    with pytest.raises(StorageError, match="/dev/full is not a regular file"):
        checkpoint.save(STATE, Path("/dev/full"))
    assert not Path("/dev/full").is_file()


def test_the_newest_whole_file_is_found(tmp_path):
    for epoch in (1, 2, 3):
        saved(tmp_path, run_folder.checkpoint_name(epoch, None), epoch=epoch)
    saved(tmp_path, run_folder.checkpoint_name(3, 5), epoch=3)
    assert [path.path.name for path in run_folder.checkpoints(tmp_path)][-2:] == [
        "checkpoint-epoch3-step5.pth",
        "checkpoint-epoch3.pth",
    ]
    for name in ("checkpoint-epoch3.pth", "checkpoint-epoch3-step5.pth"):
        (tmp_path / name).write_bytes(b"PK torn")
    path, state, warnings = run_folder.newest_whole(tmp_path)
    assert path.name == "checkpoint-epoch2.pth" and state["epoch"] == 2
    assert (
        len(warnings) == 3
        and "falling back to checkpoint-epoch2.pth: 1 epoch to do again" in warnings[-1]
    )
    for epoch in (1, 2):
        (tmp_path / run_folder.checkpoint_name(epoch, None)).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no whole checkpoint") as caught:
        run_folder.newest_whole(tmp_path)
    assert len(str(caught.value).splitlines()) == 5


def test_pruning_leaves_the_newest(tmp_path):
    def names():
        return sorted(path.name for path in tmp_path.glob("*.pth"))

    saved(tmp_path, "checkpoint-epoch1-step2.pth")
    saved(tmp_path, "checkpoint-epoch1-step4.pth")
    saved(tmp_path, "checkpoint-epoch1.pth")
    run_folder.prune(tmp_path, None)
    assert names() == ["checkpoint-epoch1.pth"]
    for step in (1, 2, 3):
        saved(tmp_path, f"checkpoint-epoch2-step{step}.pth")
    run_folder.prune(tmp_path, None)
    assert names() == [
        "checkpoint-epoch1.pth",
        "checkpoint-epoch2-step2.pth",
        "checkpoint-epoch2-step3.pth",
    ]
    for epoch in (2, 3, 4, 5):
        saved(tmp_path, f"checkpoint-epoch{epoch}.pth")
    saved(tmp_path, "model_best.pth")
    run_folder.prune(tmp_path, 3)
    assert names() == [f"checkpoint-epoch{epoch}.pth" for epoch in (3, 4, 5)] + ["model_best.pth"]


def test_all_of_torchs_optimizers_and_schedulers_are_plain(tmp_path):
    model = tiny.TinyModel()
    for name in ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "Adamax", "Adadelta"):
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
        plain(optimizer.state_dict())
    for scheduler in (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5, cycle_momentum=False),
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
    ):
        plain(scheduler.state_dict())


def test_torch_is_told_to_load_weights_only(tmp_path, monkeypatch):
    load, asked = torch.load, []
    monkeypatch.setattr(
        torch, "load", lambda *args, **kwargs: asked.append(kwargs) or load(*args, **kwargs)
    )
    checkpoint.load(saved(tmp_path))
    assert [kwargs["weights_only"] for kwargs in asked] == [True]


def test_a_tensor_of_a_class_of_its_own_can_be_read_again(tmp_path):
    class Tagged(torch.Tensor):
        pass

    state = {"x": torch.ones(3).as_subclass(Tagged), "p": nn.Parameter(torch.ones(2))}
    saved = plain(state)
    assert type(saved["x"]) is torch.Tensor and type(saved["p"]) is torch.Tensor


@pytest.mark.parametrize("value", ["results/../evil", "results/new", "/nobody/is/here", "/a\0b"])
def test_links_lead_out_of_the_project_too(tmp_path, monkeypatch, value):
    (tmp_path / "project").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "project" / "results").symlink_to(tmp_path / "disk" / "deep")
    monkeypatch.setattr(trust, "ROOT", tmp_path / "project")
    assert trust.is_to_be_made(value)
    assert not trust.is_to_be_made("results.txt")
    assert not trust.is_to_be_made(str(tmp_path / "disk"))


class Versioned(nn.Module):
    """A module whose weights of an older version mean something else, as torchvision's MNASNet."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64) * 1j)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        assert local_metadata.get("version") == 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        self.seen = state["seen"]


def test_versions_complex_weights_and_extra_state_come_back(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    content = checkpoint.load(folder / "checkpoint-epoch1.pth")
    content["state_dict"] = nn.Sequential(Versioned()).state_dict()
    checkpoint.save(content, folder / "x.pth")
    model = nn.Sequential(Versioned())
    nn.init.zeros_(model[0].phase)
    model.load_state_dict(checkpoint.load(folder / "x.pth")["state_dict"])
    assert model[0].seen == 3 and model[0].phase.tolist() == [1j, 1j]


def spoil(**changes):
    """What puts values into the content of a checkpoint, by dotted__path."""

    def put(content):
        for path, value in changes.items():
            target = content
            *keys, last = path.split("__")
            for key in keys:
                target = target[key]
            if value is ...:
                del target[last]
            else:
                target[last] = value

    return put


NONSENSE = [
    *({"epoch": value} for value in ("x", None, -1, 0, 3.5, [], torch.ones(2))),
    *({"state_dict": value} for value in (None, [1], torch.ones(1), 3)),
    {"state_dict__fc1.bias": None},
    {"state_dict__fc1.bias": -1},
    {"state_dict__fc1.bias": torch.zeros(16, dtype=torch.complex64)},
    *({"optimizer": value} for value in (None, {}, [1], "x", {"param_groups": None, "state": {}})),
    {"optimizer__state": None},
    {"optimizer__param_groups": [{"params": None}]},
    *({"progress": value} for value in (None, {}, [1])),
    *({"progress__step": value} for value in ("x", -1, 0, {}, float("nan"), torch.ones(2))),
    *({"progress__before": value} for value in ("x", None, -5, 10**30, float("nan"))),
    *({"progress__seconds": value} for value in ("x", None, -1.0, float("nan"), float("inf"))),
    {"progress__lr": ...},
    {"classes__gone": "AveragedModel"},
    {"frozen": {"gone": {"fc1.bias": "0"}}},
    {"progress__finished": ...},
    *({"classes": value} for value in (None, -1, [1], {"optimizer": 3})),
    *({"states": value} for value in (None, [1], {"monitor": 3}, {"monitor": {}})),
    {"states__monitor": {"setting": "min val_loss"}},
    {"states__train_metrics": {"sums": None}},
    *({"environment": value} for value in (None, 3)),
    *({"config": value} for value in (None, [1], "x")),
    {"monitor_best": "x"},
    {"arch": 3},
    {"format_version": 0},
    {"format_version": True},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = (
        tiny.train(tiny.settings(folder, trainer__epochs=1)).checkpoint_dir
        / "checkpoint-epoch1.pth"
    )
    return path, folder


@pytest.mark.parametrize("changes", NONSENSE, ids=lambda changes: str(changes)[:40])
def test_nonsense_with_a_right_checksum_is_refused(whole, changes):
    path, folder = whole
    content = checkpoint.load(path)
    spoil(**changes)(content)
    checkpoint.save(content, path.parent / "nonsense.pth")
    with pytest.raises(CheckpointError) as caught:
        tiny.train(tiny.settings(folder, trainer__epochs=2), resume=path.parent / "nonsense.pth")
    assert len(str(caught.value).splitlines()) <= 3


def test_a_config_from_a_checkpoint_makes_nothing_outside_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny.TinyLoader, "__init__", _with_data_dir(tiny.TinyLoader.__init__))
    config = tiny.settings(
        tmp_path, trainer__epochs=1, data_loader__args={"data_dir": str(tmp_path / "outside")}
    )
    run = tiny.train(config).checkpoint_dir
    for value in (str(tmp_path / "outside"), "../../outside-of-it"):
        state = checkpoint.load(run / "checkpoint-epoch1.pth")
        state["config"]["data_loader"]["args"]["data_dir"] = value
        checkpoint.save(state, run / "checkpoint-epoch1.pth")
        with pytest.raises(
            CheckpointError, match=r"args.data_dir: .* is outside .* --set data_loader.args"
        ):
            tiny.command_line("-r", run / "checkpoint-epoch1.pth")
        tiny.command_line(
            "-r", run / "checkpoint-epoch1.pth", "--set", f"data_loader.args.data_dir={value}"
        )
    (tmp_path / "outside").mkdir()  # what is there may be read
    tiny.command_line(
        "-r",
        run / "checkpoint-epoch1.pth",
        "--set",
        f"data_loader.args.data_dir={tmp_path / 'outside'}",
    )


@pytest.mark.parametrize(
    "key", ["trainer.threads", "data_loader.args.num_workers", "test_data_loader.args.num_workers"]
)
def test_a_config_from_a_checkpoint_asks_for_no_flood_of_workers(tmp_path, key):
    path = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    path /= "checkpoint-epoch1.pth"
    state = checkpoint.load(path)
    state["config"].setdefault("test_data_loader", {"type": "TinyLoader", "args": {}})
    section, *_, name = key.split(".")
    options = state["config"][section]
    options.get("args", options)[name] = 900
    checkpoint.save(state, path)
    with pytest.raises(CheckpointError, match=rf"{key}: 900 are too many .* --set {key}=\d+$"):
        tiny.command_line("-r", path)
    tiny.command_line("-r", path, "--set", f"{key}=900")  # who says so is believed
    tiny.command_line("-r", path, "--set", f"{key}=64")


def _with_data_dir(init):
    return lambda self, data_dir="data", **options: init(self, **options)
