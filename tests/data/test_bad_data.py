"""What is wrong with the data is told as such: the sample, the batch, the file."""

import re
import sys

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import tiny
from base import BaseDataLoader
from base.base_data_loader import training_batches
from machinery import distributed
from machinery.checks.processes import check_processes
from machinery.errors import ConfigError, DataError
from machinery.telling import end_command
from tiny import Counted, Noisy


class Spoilt(tiny.Points):
    def __getitem__(self, i):
        if i == 57:
            raise ValueError("not an image")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_sample_is_named(tmp_path, workers):
    class Spoiling(tiny.Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                self.data_loader._passes.fetcher.dataset = Spoilt(103)
            return super()._train_epoch(epoch)

    config = tiny.settings(
        tmp_path, data_loader__args={"num_workers": workers, "validation_split": 0.0}
    )
    config["trainer"]["monitor"] = "off"
    trainer = tiny.build(config, trainer_class=Spoiling)
    with pytest.raises(DataError) as caught:
        trainer.train()
    text = str(caught.value)
    assert (
        "ValueError: not an image\n  in sample 57" in text
        and "test_bad_data.py:" in text
        and 'raise ValueError("not' in text
    )
    assert re.search(r"checkpoint-epoch2-step\d+\.pth$", text) and caught.value.exit_code == 3


SINGLE = {"n": 97, "validation_split": 0.0}


def test_a_last_batch_of_one_with_batchnorm_is_refused_with_the_first(tmp_path):
    config = tiny.settings(tmp_path, data_loader__args=dict(SINGLE), trainer__monitor="off")
    trainer = tiny.build(config)
    with pytest.raises(ConfigError, match="too few for BatchNorm: set data_loader"):
        trainer.train()
    assert trainer.step == 0 and not list(trainer.checkpoint_dir.glob("*.pth"))
    for key, value in (("drop_last", True), ("batch_size", 7)):
        config["data_loader"]["args"] = {**SINGLE, key: value}
        assert tiny.train(config).epoch == 3


class Ones(list):
    """Of one length."""

    @property
    def lengths(self):
        return [1] * len(self)


class Norms(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)


@pytest.mark.parametrize(
    ("batch_by", "said"),
    [
        (None, "a batch of 1 leaves .*: set data_loader.args.drop_last, or another batch_size$"),
        ("length", "a batch of 1 leaves .*: set another batch_size$"),
        ("tokens", None),
    ],
)
def test_what_batch_by_says_of_sizes_is_known_to_several_processes(monkeypatch, batch_by, said):
    """Of tokens, samples are no part; and drop_last has no effect beside batch_by."""
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "alone", lambda: False)
    data = Ones([torch.zeros(1)] * 121)
    loader = BaseDataLoader(data, 60, True, 0.0, 0, batch_by=batch_by)
    if said is not None:
        with pytest.raises(ConfigError, match=said):
            check_processes(Norms(), loader, [], False)
        loader = BaseDataLoader(data, 29, True, 0.0, 0, batch_by=batch_by)
    check_processes(Norms(), loader, [], False)


class Pictures(tiny.TinyModel):
    """BatchNorm over pictures of one pixel, or of several."""

    __module__ = "tiny"

    def __init__(self, pixels=4, frozen=False):
        super().__init__(norm=False)
        self.pixels = pixels
        self.pictures = torch.nn.BatchNorm2d(6)
        if frozen:
            self.pictures.eval()

    def forward(self, x):
        pictures = x[:, :, None, None].expand(-1, -1, 1, self.pixels)
        return super().forward(self.pictures(pictures).mean((2, 3)))


@pytest.mark.parametrize(
    ("args", "changes", "refused"),
    [
        ({"pixels": 1}, {}, True),
        ({"pixels": 4}, {}, False),
        ({"pixels": 1, "frozen": True}, {}, False),
        ({"pixels": 1}, {"trainer__len_epoch": 3}, False),  # the run ends before the pass does
        ({"pixels": 1}, {"trainer__len_epoch": 5}, True),
    ],
)
def test_only_what_a_batch_of_one_cannot_pass_is_refused(
    tmp_path, monkeypatch, args, changes, refused
):
    monkeypatch.setattr(tiny, "Pictures", Pictures, raising=False)
    config = tiny.settings(
        tmp_path, data_loader__args=dict(SINGLE), trainer__monitor="off", **changes
    )
    config["arch"] = {"type": "Pictures", "args": args}
    if refused:
        with pytest.raises(ConfigError, match="too few for BatchNorm"):
            tiny.train(config)
    else:
        assert tiny.train(config).epoch == 3


class Functional(tiny.TinyModel):
    """Has a BatchNorm that is no layer."""

    __module__ = "tiny"

    def forward(self, x):
        x = torch.nn.functional.batch_norm(x, None, None, training=self.training or True)
        return super().forward(x)


def test_a_batch_of_one_that_nobody_could_foresee_names_drop_last(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "Functional", Functional, raising=False)
    config = tiny.settings(tmp_path, data_loader__args=dict(SINGLE), trainer__monitor="off")
    config["arch"] = {"type": "Functional", "args": {"norm": False}}
    with pytest.raises(DataError, match="cannot pass BatchNorm: set another batch_size, or, "):
        tiny.train(config)


def test_data_that_is_shorter_than_it_says_is_told(tmp_path, capfd):
    class Own(tiny.Trainer):
        samples = 18

        def __init__(self, *args, **options):
            super().__init__(
                *args, **{**options, "data_loader": DataLoader(Counted(self.samples, 40), 8)}
            )

    # Where a run stands at the end of an epoch inside a pass, nothing is read.
    unread = DataLoader(Counted(18, 40), 8)
    unread.dataset.n = None
    assert not list(training_batches(unread, 3, 3, 1))
    settings = tiny.settings(tmp_path, trainer__epochs=1, trainer__len_epoch=5)
    with pytest.raises(DataError, match="pass 1 gave 0 of the 5 batches"):
        tiny.train(settings, trainer_class=type("Empty", (Own,), {"samples": 0}))
    tiny.train(settings, trainer_class=Own)
    assert "pass 1 gave 3 of the 5 batches that the loader's len promises" in capfd.readouterr().out


class Shrinking:
    """Promises more batches than it has."""

    def __len__(self):
        return 9

    def __iter__(self):
        return iter([[1, 2], [3, 4]])


#: What is told of data that leave.
LEFT = r"batch 2 of pass 1: SystemExit: 0\n  in sample 20\n  at .*test_bad_data.py:\d+: sys.exit\(0"


class Leaving(Noisy):
    """Data whose sample 20 ends the program."""

    def __getitem__(self, i):
        if i == 20:
            sys.exit(0)
        return super().__getitem__(i)


class Breaking(IterableDataset):
    def __len__(self):
        return 40

    def __iter__(self):
        yield torch.randn(6), 1
        raise FileNotFoundError("shard-7.tar")


@pytest.mark.parametrize(
    "loader, told",
    [
        (
            lambda: BaseDataLoader(Noisy(), 8, False, 0.0, 0, batch_sampler=Shrinking()),
            "batch 2 of pass 1: IndexError",
        ),
        (
            lambda: BaseDataLoader(Breaking(), 8, False, 0.0, 0),
            "shard-7.tar\n  at .*test_bad_data.py:",
        ),
        (lambda: BaseDataLoader(Breaking(), 8, False, 0.0, 2), "FileNotFoundError: shard-7.tar"),
        (
            lambda: DataLoader(Breaking(), 8),
            "the loader 'DataLoader' could not .*FileNotFoundError: shard-7.tar",
        ),
        (lambda: DataLoader(Breaking(), 8, num_workers=2), "FileNotFoundError: shard-7.tar"),
        (lambda: BaseDataLoader(Leaving(), 8, False, 0.0, 0), LEFT),
        (lambda: BaseDataLoader(Leaving(), 8, False, 0.0, 2), LEFT),
        (lambda: BaseDataLoader(Leaving(), 8, False, 0.0, 0, skip_unreadable=True), LEFT),
        (lambda: DataLoader(Leaving(), 8), "could not make batch 2 of pass 1: SystemExit: 0"),
        (
            lambda: DataLoader(
                [(lambda: 1, 2)] * 9, 3, num_workers=1, multiprocessing_context="spawn"
            ),
            "could not make batch 0 of pass 1: .*pickle",
        ),
        (
            lambda: BaseDataLoader(
                [(lambda: 1, 2)] * 9, 3, False, 0.0, 1, multiprocessing_context="spawn"
            ),
            "could not make batch 0 of pass 1: .*pickle",
        ),
    ],
)
def test_what_a_loader_raises_is_about_the_data(tmp_path, loader, told):
    class Own(tiny.Trainer):
        def __init__(self, *args, **options):
            super().__init__(
                *args, **{**options, "data_loader": loader(), "valid_data_loader": None}
            )

    with pytest.raises(DataError, match=told) as caught:
        tiny.train(tiny.settings(tmp_path, trainer__monitor="off"), trainer_class=Own)
    text = str(caught.value)
    assert "nothing had been saved yet" in text or "checkpoint-epoch1-step2.pth" in text


def test_a_missing_file_of_a_loader_is_about_the_data(tmp_path, monkeypatch):
    def missing(**_):
        return open(tmp_path / "nothing.csv")

    monkeypatch.setattr(tiny.TinyLoader, "__init__", lambda self, **_: missing())
    with pytest.raises(DataError, match=r"data_loader \(TinyLoader\): FileNotFoundError"):
        tiny.build(tiny.settings(tmp_path))


class Forgetful(Noisy):
    """Data that cannot say its length once it has been trained on."""

    gone = False

    def __len__(self):
        if self.gone:
            raise OSError("the share is gone")
        return super().__len__()


def test_a_length_that_cannot_be_asked_for_is_told_in_plain_words(tmp_path, capfd):
    dataset = Forgetful()
    trainer = tiny.build(
        tiny.settings(tmp_path), data_loader=BaseDataLoader(dataset, 8, True, 0, 0)
    )
    dataset.gone = True
    with pytest.raises(OSError, match="gone") as caught:
        trainer.train()
    with pytest.raises(SystemExit) as ended:
        end_command(caught.type, caught.value, caught.tb)
    told = capfd.readouterr().err
    assert ended.value.code == 1 and "Traceback" not in told
    assert "the share is gone\n  in the length of the data" in told
