"""The table of epochs and TensorBoard: one axis, no point twice, and trouble with them ends no
run."""

import io
import logging
import re
import sys
import types

import pytest
import torch

import tiny
from logger.logger import ConsoleHandler
from logger.visualization import EpochTable, MetricsFile, TensorboardWriter, Writers
from trainer import Trainer


def test_the_table_goes_on_after_a_cut(tmp_path):
    path = tmp_path / "metrics.csv"
    table = MetricsFile(path)
    for epoch in (1, 2, 3):
        table.log({"epoch": epoch, "loss": 1 / epoch}, 0)
    with open(path, "a") as file:
        file.write("4,0.2")  # a kill in the middle of a line
    again = MetricsFile(path)
    again.cut(2)
    again.log({"epoch": 3, "loss": 0.25}, 0)
    again.log({"epoch": 4, "loss": 0.125, "extra": 7}, 0)
    assert path.read_text() == "epoch,loss,extra\n1,1.0,\n2,0.5,\n3,0.25,\n4,0.125,7\n"


@pytest.mark.parametrize(
    "spoilt", [b"\x00\xff\xfe,\n1,2\n", b"name,loss\n1,2\n", b"epoch,loss\n1,2,3\nx,\n2\n2,0.5\n"]
)
def test_a_spoilt_table_does_not_end_a_run(tmp_path, spoilt, caplog):
    path = tmp_path / "metrics.csv"
    path.write_bytes(spoilt)
    table = MetricsFile(path)
    table.cut(2)
    table.log({"epoch": 3, "loss": 0.25}, 0)
    if b"0.5" in spoilt:  # what is no row goes
        assert path.read_text() == "epoch,loss\n2,0.5\n3,0.25\n"
    else:
        assert (
            path.read_text() == "epoch,loss\n3,0.25\n" and "renamed metrics.csv.old" in caplog.text
        )
        assert (tmp_path / "metrics.csv.old").read_bytes() == spoilt


def test_trouble_with_logs_warns_once_and_goes_on(tmp_path, caplog):
    logger = logging.getLogger("trouble")
    table = MetricsFile(tmp_path)  # a folder is in the way
    table.cut(1)
    assert caplog.text.count("cannot be written, training goes on") == 1
    writers = Writers(table)
    writers.log({"epoch": 1}, 0)
    writers.log({"epoch": 2}, 0)
    assert caplog.text.count("MetricsFile is off from here on, training goes on") == 1
    writer = TensorboardWriter(tmp_path / "file" / "x", logger, enabled=True)
    (tmp_path / "file").write_text("")
    writer.add_scalar("a", 1.0)
    writer.add_scalar("a", 1.0)
    assert caplog.text.count("TensorBoard is off from here on, training goes on") == 1
    with pytest.raises(AttributeError):
        writer.add_nothing("a")


def test_tensorboard_has_both_curves_on_one_axis(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def events(folder):
        accumulator = EventAccumulator(str(folder))
        accumulator.Reload()
        return {
            tag: [event.step for event in accumulator.Scalars(tag)]
            for tag in accumulator.Tags()["scalars"]
        }

    writer = TensorboardWriter(tmp_path, logging.getLogger("test"), enabled=True)
    for step in (10, 20, 30):
        writer.set_step(step)
        writer.add_scalar("loss", 1.0)
        writer.set_step(step, "valid")
        writer.add_scalar("loss", 2.0)
    writer.close()
    for first in tmp_path.glob(
        "*/*"
    ):  # as if it were of an hour ago: files are read in the order of their names
        first.rename(
            first.with_name(
                re.sub(r"\d{10}", lambda match: str(int(match[0]) - 3600), first.name, count=1)
            )
        )
    again = TensorboardWriter(tmp_path, logging.getLogger("test"), enabled=True)
    again.continue_from(21)
    again.set_step(25)
    again.add_scalar("loss", 3.0)
    again.set_step(25, "valid")
    again.add_scalar("loss", 3.0)
    again.close()
    assert events(tmp_path / "train") == events(tmp_path / "valid") == {"loss": [10, 20, 25]}


def test_tensorboard_can_compare_runs(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    best = [1]
    writer = TensorboardWriter(
        tmp_path, logging.getLogger("test"), True, {"lr": 0.1, "name": "x"}, lambda: best[0]
    )
    for epoch, loss in ((1, 2.0), (2, 3.0), (3, 1.0)):
        best[0] = 3 if epoch == 3 else 1
        writer.log({"loss/train": loss, "lr": 0.1}, 10 * epoch)
        writer.log({"loss/valid": loss, "accuracy/valid": 0.5}, 10 * epoch)
        writer.log(
            {"epoch": epoch, "val_loss": loss, "val_accuracy": 0.5, "lr": 0.1, "samples/s": 9.0},
            10 * epoch,
        )
    writer.close()
    valid, train = (EventAccumulator(str(tmp_path / name)).Reload() for name in ("valid", "train"))
    assert [point.value for point in valid.Scalars("~best/loss")] == [2.0, 2.0, 1.0]
    assert set(valid.Tags()["scalars"]) == {"loss", "accuracy", "~best/loss", "~best/accuracy"}
    assert set(train.Tags()["scalars"]) == {"loss", "lr", "samples_per_second"}
    assert valid.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name == "hparams"


def row_of_many(*more):
    names = ("accuracy", "f1", "auc", "top_k_acc", *more)
    numbers = {"epoch": 1, "loss": 0.5, **dict.fromkeys(names, 0.25)}
    for prefix in ("val_", "val_far_"):
        numbers |= {f"{prefix}{name}": 0.75 for name in ("loss", *names)}
    numbers["val_only"] = 2.0
    return {**numbers, "lr": 0.1, "seconds": 1.0, "samples/s": 9.0}


def table_of(row, columns, caplog, monkeypatch, monitored="val_auc"):
    """What the console and what the log files get of an epoch."""
    monkeypatch.setenv("COLUMNS", str(columns))
    caplog.set_level(logging.INFO)
    caplog.clear()
    EpochTable(logging.getLogger("table"), lambda: 1, monitored).log(row, 1)
    console = [r.getMessage() for r in caplog.records if not vars(r).get("aside")]
    files = [r.getMessage() for r in caplog.records if not vars(r).get("console")]
    return console, files


@pytest.mark.parametrize("sets", [("a", "b"), ("b", "a"), ("a", "a_c")])
def test_a_set_is_told_from_a_loss_of_that_name(caplog, monkeypatch, sets):
    """What ends with the name of two numbers of the training is of either."""
    first, second = sets
    row = {"epoch": 1, "loss": 0.5, "b_loss": 0.25}
    row |= {f"val_{first}_loss": 1.5, f"val_{first}_b_loss": 2.5}
    row |= {f"val_{second}_loss": 3.5, f"val_{second}_b_loss": 4.5}
    header, *lines = table_of(row, 36, caplog, monkeypatch, "")[0]
    assert header.split() == ["epoch", "loss", "b_loss"]
    expected = [
        ["1", f"val_{first}", "1.5000", "2.5000", "*"],
        [f"val_{second}", "3.5000", "4.5000"],
        ["train", "0.5000", "0.2500"],
    ]
    assert [line.split() for line in lines] == expected


@pytest.mark.parametrize("columns", [40, 64, 80, 120])
@pytest.mark.parametrize("more", [(), ("f1/cat", "f1/dog", "map", "f1/horse")])
def test_a_wide_row_has_a_line_for_each_kind_of_data(caplog, monkeypatch, columns, more):
    row = row_of_many(*more)
    console, files = table_of(row, columns, caplog, monkeypatch)
    *left_out, header, first, second, third = console
    assert max(len(line) for line in (header, first, second, third)) <= columns
    titles = header.split()
    assert titles[:3] == ["epoch", "auc", "loss"] and len(first.split()) == len(titles) + 2
    assert [line.split()[:1] for line in (second, third)] == [["val_far"], ["train"]]
    assert first.split()[:4] == ["1", "val", "0.7500", "0.7500"] and first.endswith("*")
    assert third.split()[:3] == ["train", "0.2500", "0.5000"]
    shown = {*titles, *(prefix + t for t in titles for prefix in ("val_", "val_far_"))} & {*row}
    named = set()
    if left_out:
        named = set(left_out[0].split(": ")[1].split(", "))
    if not left_out or not left_out[0].endswith("columns)"):
        assert shown | named == set(row)
    assert not shown & named
    # The files have it all, in one line.
    assert len(files) == 2 and set(files[0].split()) == set(row)
    assert files[0].split()[:3] == ["epoch", "val_auc", "val_loss"]


def test_a_row_that_fits_is_the_same_everywhere(caplog, monkeypatch):
    row = {"epoch": 1, "loss": 0.5, "val_loss": 0.4, "lr": 0.1, "seconds": 1.0, "samples/s": 9.0}
    console, files = table_of(row, 80, caplog, monkeypatch, "val_loss")
    assert console == files
    assert console[0].split() == ["epoch", "val_loss", "loss", "lr", "seconds", "samples/s"]
    assert [len(line) for line in console] == [len(console[0]), len(console[0]) + 2]


def test_metrics_stay_where_lr_and_seconds_go(caplog, monkeypatch):
    row = {"epoch": 1, "loss": 0.5, **dict.fromkeys("abcdefgh", 1.0), "lr": 0.1, "seconds": 1.0}
    console, _ = table_of(row, 80, caplog, monkeypatch, "off")
    assert console[0] == "only in metrics.csv and info.log, for want of space: lr, seconds"
    assert console[1].split() == ["epoch", "loss", *"abcdefgh"]


def test_where_there_is_no_terminal_a_row_has_no_limit(caplog, monkeypatch):
    """As in a notebook, or in the file of a scheduler."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(write=print, flush=print))
    caplog.set_level(logging.INFO)
    row = row_of_many("f1/cat", "f1/dog")
    EpochTable(logging.getLogger("table"), lambda: 1).log(row, 1)
    header, cells = [record.getMessage() for record in caplog.records]
    assert set(header.split()) == set(row) and len(cells) > 200


@pytest.mark.parametrize("columns", [30, 200])
def test_info_log_has_whole_rows(tmp_path, monkeypatch, capfd, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    trainer = tiny.train(tiny.settings(tmp_path, trainer__verbosity=2, trainer__epochs=2))
    text = (trainer.config.log_dir / "info.log").read_text()
    assert text.count("epoch val_loss val_accuracy") == 1 and text.count("samples/s\n") == 1
    assert not re.search("only in metrics|train  +[0-9]", text)
    assert ("only in metrics.csv" in capfd.readouterr().out) == (columns == 30)


def test_an_off_writer_does_nothing(tmp_path):
    writer = TensorboardWriter(tmp_path, logging.getLogger("test"), enabled=False)
    writer.add_scalar("a", 1.0)
    writer.add_figure("a", None)
    writer.close()
    assert not list(tmp_path.iterdir())


def test_points_after_a_crash_in_the_first_epoch_are_dropped(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Crashing(tiny.Trainer):
        def _update(self, batches):
            super()._update(batches)
            if self.step == 8:
                raise ValueError("crash")

    settings = {
        "trainer__tensorboard": True,
        "trainer__save_step": 3,
        "trainer__epochs": 1,
        "trainer__log_step": 1,
    }
    config = tiny.settings(tmp_path, **settings)
    crashed = tiny.build(config, trainer_class=Crashing)
    with pytest.raises(ValueError, match="crash"):
        crashed.train()
    path = crashed.checkpoint_dir / "checkpoint-epoch1-step6.pth"
    log_dir = tiny.train(config, resume=path).config.log_dir
    accumulator = EventAccumulator(str(log_dir / "train"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("loss")] == list(range(1, 12))


class Undrawable(tiny.TinyModel):
    """Weights of every kind that there is no histogram of."""

    def __init__(self):
        super().__init__()
        self.wave = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        self.eighth = torch.nn.Parameter(
            torch.arange(4.0).to(torch.float8_e4m3fn), requires_grad=False
        )
        self.sparse = torch.nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False)

    def forward(self, x):
        return super().forward(x) + self.wave.real


class Drawing(Trainer):
    """Shows what cannot be shown, again and again."""

    def _valid_epoch(self, epoch):
        self.writer.add_image("picture", torch.zeros(2, 3))
        self.writer.add_figure("figure", "none")
        self.writer.add_graph(model=self.model, input_to_model="none")
        self.writer.add_scalar("wave", 1j)
        self.writer.add_scalar("nothing", None)
        self.writer.add_scalar("ok/with: odd\n characters \0", float("nan"))
        self.writer.add_histogram("none", torch.tensor([1j]))
        return super()._valid_epoch(epoch)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_drawn_costs_no_epoch(tmp_path, monkeypatch, capfd):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Undrawable.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Undrawable", Undrawable, raising=False)
    changes = {"arch": {"type": "Undrawable"}, "trainer__tensorboard": True}
    config = tiny.settings(tmp_path, trainer__epochs=2, **changes)
    trainer = tiny.train(config, trainer_class=Drawing)
    assert tiny.status(trainer)["state"] == "finished"
    told = capfd.readouterr().out
    for what in ("the weights wave", "the weights sparse", "image picture", "scalar wave"):
        assert told.count(f"TensorBoard cannot show {what}: ") == 1
    assert "is off" not in told
    shown = EventAccumulator(str(trainer.config.log_dir / "train")).Reload()
    assert len(shown.Scalars("loss")) > 2
    assert {"weights/fc1.weight", "weights/eighth"} <= set(shown.Tags()["histograms"])


def test_letters_that_the_console_cannot_show_cost_no_traceback(monkeypatch, capfd):
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", written)
    record = logging.LogRecord("test", logging.INFO, "", 0, "a run called \u00fc\u2026", None, None)
    ConsoleHandler().emit(record)
    written.flush()
    assert written.buffer.getvalue() == b"a run called \\xfc\\u2026\n"
    assert capfd.readouterr().err == ""
