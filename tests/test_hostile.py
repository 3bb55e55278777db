"""What hostile hands and odd moments do: nothing is lost, and what is told is true."""

import json
import os
import signal
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, StackDataset

import tiny
from base import BaseDataLoader
from base.base_data_loader import training_batches
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.checkpoints.run import Run
from machinery.config.source import Source
from machinery.errors import CheckpointError, ConfigError, DataError, StorageError
from machinery.files import shown
from machinery.plain_data import plain
from machinery.stopping import StopRequest
from machinery.telling import described, told


class StoppedInFetch(tiny.Trainer):
    """Gets a signal while the first batch of an epoch is fetched."""

    at_epoch = 1

    def _groups(self, epoch):
        dataset = self.data_loader.dataset
        inner = type(dataset).__getitem__

        def fetch(data, i):
            if self.epoch == self.at_epoch and self.step == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return inner(data, i)

        dataset.__class__ = type("Points", (type(dataset),), {"__getitem__": fetch})
        return super()._groups(epoch)


@pytest.mark.parametrize("epoch, save_period", [(1, 1), (2, 1), (3, 10)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stop_before_the_first_step_of_an_epoch_is_one_after_the_epoch_before(
    tmp_path, epoch, save_period, accumulate
):
    settings = {"trainer__save_period": save_period, "trainer__accumulate": accumulate, "trainer__monitor": "off"}
    whole = tiny.train(tiny.settings(tmp_path / "a", **settings))
    config = tiny.settings(tmp_path / "b", **settings)
    trainer = tiny.build(config, trainer_class=type("T", (StoppedInFetch,), {"at_epoch": epoch}))
    with pytest.raises(BaseException, match=f"stopped by SIGTERM in epoch {epoch}, step 0") as caught:
        trainer.train()
    names = [path.name for path in trainer.checkpoint_dir.glob("*.pth")]
    if epoch == 1:
        assert not names and "nothing had been saved yet" in str(caught.value)
        return
    assert f"checkpoint-epoch{epoch - 1}.pth" in names and not any("step" in name for name in names)
    again = tiny.train(config, resume=trainer.checkpoint_dir / f"checkpoint-epoch{epoch - 1}.pth")
    assert tiny.digest(again.model) == tiny.digest(whole.model) and tiny.rows(again) == tiny.rows(whole)


def test_a_signal_at_any_line_of_a_fetch_ends_it_quietly():
    """At each line of `until`, and in each of the iterator's own: no exception, and no batch is lost unsaid."""
    for at in range(1, 60):
        count, stop = 0, StopRequest()

        def trace(frame, event, argument):
            nonlocal count
            if frame.f_code.co_name in ("until", "batches"):
                count += event == "line"
                if count == at and event == "line":
                    stop._note(signal.SIGTERM, None)
            return trace

        def batches():
            for i in range(5):
                value = i * 1
                yield value

        sys.settrace(trace)
        try:
            came = list(stop.until(batches()))
        finally:
            sys.settrace(None)
        assert came == list(range(len(came)))


class KeepingLoss(nn.Module):
    """A loss that keeps its last term, which has a graph and cannot be copied."""

    def forward(self, output, target):
        self.last = nn.functional.cross_entropy(output, target)
        return self.last


def test_losses_that_cannot_be_copied_train(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "KeepingLoss", KeepingLoss, raising=False)
    KeepingLoss.__module__ = "tiny"
    assert tiny.train(tiny.settings(tmp_path, loss="KeepingLoss", trainer__epochs=1)).epoch == 1


class Counted(IterableDataset):
    def __init__(self, n, promised):
        self.n, self.promised = n, promised

    def __len__(self):
        return self.promised

    def __iter__(self):
        return iter([(torch.full((6,), float(i)), i % 3) for i in range(self.n)])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_of_iterable_data_drops_nothing(workers):
    loader = BaseDataLoader(Counted(21, 21), 8, False, 0.0, workers, drop_last=True)
    assert [len(y) for _, y in loader.batches(0)] == [8, 8, 5] and [len(y) for _, y in loader.batches(1)] == [8, 8]


def test_data_that_is_shorter_than_it_says_is_told(tmp_path, capfd):
    class Own(tiny.Trainer):
        samples = 18

        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "data_loader": DataLoader(Counted(self.samples, 40), 8)})

    # Where a run stands at the end of an epoch inside a pass, nothing is read.
    unread = DataLoader(Counted(18, 40), 8)
    unread.dataset.n = None
    assert not list(training_batches(unread, 3, 3, 1))
    settings = tiny.settings(tmp_path, trainer__epochs=1, trainer__len_epoch=5)
    with pytest.raises(DataError, match="pass 1 gave 0 of the 5 batches"):
        tiny.train(settings, trainer_class=type("Empty", (Own,), {"samples": 0}))
    tiny.train(settings, trainer_class=Own)
    assert "pass 1 gave 3 of the 5 batches that the loader's len promises" in capfd.readouterr().out


def test_torch_s_own_datasets_get_single_indices():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, i):
            return {index: index * 2 for index in range(9)}[i]

    loader = BaseDataLoader(StackDataset(Rows(), Rows()), 4, False, 0.0, 0)
    assert [x.tolist() for x, _ in loader] == [[0, 2, 4, 6], [8, 10, 12, 14], [16]]


def test_a_batch_sampler_of_a_foreign_loader_hears_of_the_epoch():
    class Batches(list):
        def set_epoch(self, epoch):
            self[:] = [[epoch, epoch + 1]]

    from base.base_data_loader import training_batches

    loader = DataLoader(tiny.Points(20, noise=False), batch_sampler=Batches([[0, 1]]))
    first, second = training_batches(loader, 0, 2, 1)
    assert not torch.equal(first[0], second[0])


def test_groups_of_other_parameters_are_refused(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    trainer = tiny.build(config)
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.ndim == 1]
    trainer.optimizer = torch.optim.Adam([{"params": [named[0]]}, {"params": [named[1]]}])
    trainer.lr_scheduler = None
    trainer.train()
    config["trainer"]["epochs"] = 2
    again = tiny.build(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    named = [(name, p) for name, p in again.model.named_parameters() if p.ndim == 1]
    again.optimizer = torch.optim.Adam([{"params": [named[1]]}, {"params": [named[0]]}])
    again.lr_scheduler = None
    with pytest.raises(CheckpointError, match="parameters in its groups"):
        again.restore()


def test_rates_that_cannot_be_another_are_refused(tmp_path):
    cosine = {"type": "CosineAnnealingLR", "args": {"T_max": 5, "eta_min": 0.001}}
    for optimizer, scheduler in (("Adam", cosine), ("Rprop", None)):
        config = tiny.settings(tmp_path / optimizer, trainer__epochs=1, lr_scheduler=scheduler)
        config["optimizer"] = {"type": optimizer, "args": {"lr": 0.01}}
        folder = tiny.train(config).checkpoint_dir
        parser = tiny.command_line("-r", folder, "--set", "optimizer.args.lr=0.02", "--set", "trainer.epochs=2")
        with pytest.raises(ConfigError, match="cannot"):
            tiny.build(parser).train()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    folder = run_folder.create(tmp_path / "models" / "X", "one")
    precious = tmp_path / "precious.txt"
    precious.write_text("do not empty me")
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(StorageError):
        Run(folder)
    assert precious.read_text() == "do not empty me"


def test_the_best_that_is_replaced_is_kept_aside(tmp_path):
    from test_resume import best_by_epoch

    config = tiny.settings(tmp_path, trainer__epochs=3)
    folder = tiny.train(config, trainer_class=best_by_epoch([3.0, 2.0, 1.0])).checkpoint_dir
    before = (folder / "model_best.pth").read_bytes()
    tiny.build(config, resume=folder / "checkpoint-epoch1.pth")._start()
    assert (folder / "model_best.pth.old").read_bytes() == before
    assert checkpoint.load(folder / "model_best.pth")["epoch"] == 1


def test_a_file_of_another_epoch_is_passed_over(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=2)).checkpoint_dir
    (folder / "checkpoint-epoch9.pth").write_bytes((folder / "checkpoint-epoch1.pth").read_bytes())
    path, _, warnings = run_folder.newest_whole(folder)
    assert path.name == "checkpoint-epoch2.pth" and "checkpoint-epoch9.pth is of epoch 1" in warnings[0]


def test_a_folder_that_is_made_again_is_owned(tmp_path):
    import shutil

    run = Run(run_folder.create(tmp_path / "models" / "X", "one"))
    run.begin({})
    shutil.rmtree(run.folder)
    run.remake({})
    assert (run.folder / ".lock").exists() and (run.folder / "config.json").exists()
    with pytest.raises(ConfigError, match="in use by this process"):
        Run(run.folder)


def test_a_tensor_of_a_class_of_its_own_can_be_read_again(tmp_path):
    class Tagged(torch.Tensor):
        pass

    state = {"x": torch.ones(3).as_subclass(Tagged), "p": nn.Parameter(torch.ones(2))}
    saved = plain(state)
    assert type(saved["x"]) is torch.Tensor and type(saved["p"]) is torch.Tensor


def test_a_step_beyond_the_epoch_is_refused(tmp_path):
    from test_resume import interrupted

    config = tiny.settings(tmp_path)
    path = interrupted(config, after=5)
    state = checkpoint.load(path)
    state["progress"]["step"] = 10**6
    checkpoint.save(state, path)
    with pytest.raises(CheckpointError, match="1000000 batches into an epoch of 11"):
        tiny.train(config, resume=path)


@pytest.mark.parametrize("config", [{}, {"name": b"x"}, {"name": torch.ones(2)}])
def test_configs_that_are_none_are_refused(tmp_path, config):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    state = checkpoint.load(folder / "checkpoint-epoch1.pth")
    state["config"] = config
    checkpoint.save(state, folder / "checkpoint-epoch1.pth")
    with pytest.raises((CheckpointError, ConfigError)):
        tiny.command_line("-r", folder / "checkpoint-epoch1.pth")


@pytest.mark.parametrize("value", ["results/../evil", "results/new", "/nobody/is/here", "/a\0b"])
def test_links_lead_out_of_the_project_too(tmp_path, monkeypatch, value):
    from machinery.launch import command

    (tmp_path / "project").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "project" / "results").symlink_to(tmp_path / "disk" / "deep")
    monkeypatch.setattr(command, "ROOT", tmp_path / "project")
    assert command._is_to_be_made(value)
    assert not command._is_to_be_made("results.txt") and not command._is_to_be_made(str(tmp_path / "disk"))


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")


def test_an_error_that_cannot_be_told_is_told():
    for error in (Unspeakable(), ValueError("x" * 10_000), ValueError("\n" * 5_000 + "end"), ValueError()):
        text = told(error)
        assert len(text.splitlines()) <= 3 and len(text) < 1000


def test_values_that_cannot_be_described_are_left_out():
    endless: dict = {}
    endless["x"] = endless

    class Odd:
        shape, dtype = 5, "odd"

    for value in (endless, Odd(), torch.Tensor, [[]] * 10**6, None, "text"):
        assert len(described(value)) < 100
    assert described((torch.ones(2, 3), {"y": torch.ones(2).long()})) == "([2, 3] float32, (y: [2] int64))"


def test_the_current_folder_may_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert shown(tmp_path / "x") == str(tmp_path / "x")


def test_places_in_long_configs_are_found_at_once():
    lines = ",\n".join(f'"key{i}": {i}' for i in range(20_000))
    source = Source.parse("{\n" + lines + "\n}", "long.json")
    assert source.where(("key19999",)) == "long.json:20001:1"


def test_deep_json_stops_nobody(tmp_path):
    from machinery.files import read_json

    (tmp_path / "status.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "status.json")
    config = tiny.command_line("-c", write(tmp_path), "--set", "arch.args.width=" + "[" * 50_000)
    assert config["arch"]["args"]["width"].startswith("[[")  # no JSON: a text


def write(folder):
    (folder / "c.json").write_text(json.dumps(tiny.settings(folder)))
    return folder / "c.json"
