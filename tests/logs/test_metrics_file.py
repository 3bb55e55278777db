"""The table of epochs is appended to: at any time it holds what writing all of it anew would give,
and a line that was not finished is no row."""

import errno
import math
import os
import random
import shutil

import pytest
import torch

import tiny
from logger.metrics_file import MetricsFile
from logger.writers import row_of_epoch
from machinery.errors import StorageError

COLUMNS = ["loss", "a, b", 'said "so"', "val_loss", "two\nlines\r", "lr", "samples/s", "später"]


def history(seed, epochs=9):
    """Rows of a run whose numbers come, stay away and come again."""
    draw = random.Random(seed)
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch}
        for name in COLUMNS[: draw.randint(2, 2 + epoch)]:
            if draw.random() < 0.8:
                long = draw.random() * 10 ** draw.randint(-9, 9)
                row[name] = draw.choice([long, 3, math.nan])
        rows.append(row)
    return rows


def rewrite(path, row):
    """Write all of a table anew with one more row: who has not written it does so."""
    MetricsFile(path).log(row, 0)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("seed", range(8))
def test_appended_is_rewritten(tmp_path, seed):
    appended, rewritten = tmp_path / "appended.csv", tmp_path / "rewritten.csv"
    table = MetricsFile(appended)
    ways = set()
    columns = []
    for row in history(seed):
        before = appended.stat().st_ino if columns else 0
        table.log(row, 0)
        rewrite(rewritten, row)
        assert appended.read_bytes() == rewritten.read_bytes()
        has_new = not row.keys() <= set(columns)
        columns += [name for name in row if name not in columns]
        assert (appended.stat().st_ino == before) != has_new  # a file that is replaced is another
        ways.add(has_new)
    assert ways == {True, False}


def test_an_epoch_reads_nothing_of_those_before(tmp_path, monkeypatch):
    table = MetricsFile(tmp_path / "metrics.csv")
    table.log({"epoch": 1, "loss": 0.5}, 0)
    monkeypatch.delattr(MetricsFile, "_read")
    table.log({"epoch": 2, "loss": 0.25}, 0)
    table.log({"epoch": 3}, 0)
    assert table.path.read_text() == "epoch,loss\n1,0.5\n2,0.25\n3,\n"


def test_a_row_is_on_disk_before_the_epoch_is_done_with(tmp_path, monkeypatch):
    table = MetricsFile(tmp_path / "metrics.csv")
    table.log({"epoch": 1, "loss": 0.5}, 0)
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_size))
    table.log({"epoch": 2, "loss": 0.25}, 0)
    assert flushed == [table.path.stat().st_size]


def edit(path):
    """Other bytes, as many as before."""
    path.write_bytes(path.read_bytes().replace(b"loss", b"cost"))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))  # a clock may be coarse


def edit_lines(path):
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def shorten(path):
    path.write_bytes(path.read_bytes()[:-4])


def replace(path):
    shutil.copy2(path, path.with_suffix(".copy"))
    edit(path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


@pytest.mark.parametrize("change", [edit, edit_lines, shorten, replace, os.unlink])
def test_what_others_change_between_epochs_is_taken_in(tmp_path, change):
    kept, rewritten = tmp_path / "kept.csv", tmp_path / "rewritten.csv"
    table = MetricsFile(kept)
    for epoch in (1, 2, 3, 4):
        row = {"epoch": epoch, "loss": 1 / epoch}
        table.log(row, 0)
        rewrite(rewritten, row)
        assert kept.read_bytes() == rewritten.read_bytes()
        if epoch == 2:
            change(kept)
            change(rewritten)


def write(path, rows):
    """What a run has written that was stopped after these epochs."""
    path.unlink(missing_ok=True)
    table = MetricsFile(path)
    for row in rows:
        table.log(row, 0)


@pytest.mark.parametrize("last", [3, 4])
def test_a_line_that_is_torn_at_any_byte_goes(tmp_path, last):
    """A run is killed in its fifth epoch, and goes on after the third or the fourth."""
    path, unbroken = tmp_path / "metrics.csv", tmp_path / "unbroken.csv"
    rows = history(2, epochs=5)
    rows[-1] = dict(rows[-2]) | {"epoch": 5}  # no new column, which would be no appending
    write(unbroken, rows)
    *before, torn = lines_of(unbroken)
    assert len(torn) > 10
    for size in range(len(torn) + 1):
        path.write_bytes(b"".join(before) + torn[:size])
        table = MetricsFile(path)
        table.cut(last)
        whole = tmp_path / "whole.csv"
        write(whole, rows)
        MetricsFile(whole).cut(last)
        assert path.read_bytes() == whole.read_bytes()
        for row in rows[last:]:
            table.log(row, 0)
        assert path.read_bytes() == unbroken.read_bytes()


@pytest.mark.parametrize("last", range(7))
def test_it_goes_on_from_the_middle(tmp_path, last):
    """Rows after the epoch go; those that come again, with other columns, are appended."""
    path, rewritten = tmp_path / "metrics.csv", tmp_path / "rewritten.csv"
    write(path, history(1, epochs=6))
    write(rewritten, history(1, epochs=6))
    table = MetricsFile(path)
    table.cut(last)
    MetricsFile(rewritten).cut(last)
    for row in history(5, epochs=9)[last:]:
        table.log(row, 0)
        rewrite(rewritten, row)
        assert path.read_bytes() == rewritten.read_bytes()


def test_a_run_that_begins_its_first_epoch_again_has_no_row_yet(tmp_path):
    table = MetricsFile(tmp_path / "metrics.csv")
    aside = tmp_path / "metrics.csv.old"
    aside.write_text("of an earlier time")
    table.log({"epoch": 1, "loss": 0.5}, 0)
    table.cut(0)
    assert not table.path.exists()
    table.log({"epoch": 1, "loss": 0.25}, 0)
    assert table.path.read_text() == "epoch,loss\n1,0.25\n"
    assert aside.read_text() == "of an earlier time"


@pytest.mark.parametrize("name", ["f1/cat\r", "a\rb", "a\r\nb", "a\nb", "\r\n"])
def test_a_name_may_hold_the_end_of_a_line(tmp_path, name):
    """As classes do that are read from a file of Windows."""
    path = tmp_path / "metrics.csv"
    for epoch in (1, 2):
        table = MetricsFile(path)
        table.cut(epoch)
        table.log({"epoch": epoch, name: 0.5, "lr": 0.1}, 0)
    assert [*table.history()[name]] == [0.5, 0.5]


def test_a_disk_that_takes_part_of_a_line_leaves_the_table(tmp_path):
    resource = pytest.importorskip("resource")
    table = MetricsFile(tmp_path / "metrics.csv")
    table.log({"epoch": 1, "loss": 1 / 3}, 0)
    table.log({"epoch": 2, "loss": 1 / 6}, 0)
    before = table.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for more in range(len(lines_of(table.path)[-1])):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + more, hard))
        try:
            with pytest.raises(StorageError, match=os.strerror(errno.EFBIG)):
                table.log({"epoch": 3, "loss": 1 / 6}, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert table.path.read_bytes() == before


def test_a_column_that_comes_later_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    table = MetricsFile(tmp_path / "metrics.csv")
    table.log({"epoch": 1, "loss": 0.5}, 0)
    table.log({"epoch": 2, "loss": 0.25}, 0)
    before = table.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError, match="No space left"):
            table.log({"epoch": 3, "extra": 1.5}, 0)
        assert table.path.read_bytes() == before
    table.log({"epoch": 3, "extra": 1.5}, 0)
    table.log({"epoch": 4, "loss": 0.125}, 0)
    assert table.path.read_text() == "epoch,loss,extra\n1,0.5,\n2,0.25,\n3,,1.5\n4,0.125,\n"


def test_who_looks_meanwhile_sees_whole_rows_alone(tmp_path):
    """The page of runs and the sweep read a table while it is written."""
    pytest.importorskip("pandas")
    pytest.importorskip("optuna")
    from tools.history.finding import find_runs
    from tools.sweeping.point import values

    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=3))
    path = trainer.config.log_dir / "metrics.csv"
    *before, torn = lines_of(path)
    expected = values(path, "val_loss")
    assert [epoch.number for epoch in expected] == [1, 2, 3]
    for size in range(len(torn)):
        path.write_bytes(b"".join(before) + torn[:size])
        assert values(path, "val_loss") == expected[:2]
        (record,) = find_runs([tmp_path])
        assert list(record.history["epoch"]) == [1, 2] and not record.history.isna().any().any()


def test_the_history_is_a_table_of_all_epochs(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=2)
    first = tiny.build(config)
    assert first.history.empty
    first.train()
    path = first.config.log_dir / "metrics.csv"
    path.write_bytes(path.read_bytes() + b"3,0.12")  # torn by a kill
    assert list(first.history.index) == [1, 2]
    again = tiny.train(
        tiny.settings(tmp_path, trainer__epochs=4), resume=tiny.newest(first.checkpoint_dir)
    )
    header, *rows = tiny.rows(again)
    assert list(again.history.index) == [1, 2, 3, 4] and again.history.index.name == "epoch"
    assert [f"{loss!r}" for loss in again.history["val_loss"]] == [
        row[header.index("val_loss")] for row in rows
    ]
    assert list(again.history[["loss", "val_loss"]].dtypes) == ["float64"] * 2


def test_a_gpu_has_its_peak_of_memory_in_the_row(monkeypatch):
    row = row_of_epoch(1, {"loss": 0.5}, 0.1, 2.0, 10)
    assert "peak_gib" not in row
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 3 << 29)
    assert row_of_epoch(1, {"loss": 0.5}, 0.1, 2.0, 10) == {**row, "peak_gib": 1.5}

    def does_not_count():
        raise RuntimeError("not of this device")

    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", does_not_count)
    assert row_of_epoch(1, {"loss": 0.5}, 0.1, 2.0, 10) == row


def test_a_table_that_excel_has_saved_is_the_same_table(tmp_path):
    """It puts a mark before the first column, and carriage returns before the ends of lines."""
    first, second = {"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}
    path = tmp_path / "metrics.csv"
    for file in (MetricsFile(path), MetricsFile(path)):
        path.write_bytes(b"\xef\xbb\xbfepoch,loss\r\n1,0.5\r\n")
        file.cut(1)
        path.write_bytes(b"\xef\xbb\xbfepoch,loss\r\n1,0.5\r\n")
        file.log(second, 0)
        assert path.read_text() == "epoch,loss\n1,0.5\n2,0.25\n"
    assert [*MetricsFile(path).history().index] == [first["epoch"], second["epoch"]]
    assert not path.with_name("metrics.csv.old").exists()


def semicolons(text):
    return text.replace(",", ";").encode()


def wide(text):
    return text.encode("utf-16")


def returns(text):
    return text.replace("\n", "\r").encode()


@pytest.mark.parametrize("change", [semicolons, wide, returns])
def test_what_others_make_no_table_of_epochs_is_kept_aside(tmp_path, change):
    table = MetricsFile(tmp_path / "metrics.csv")
    for epoch in (1, 2):
        table.log({"epoch": epoch, "loss": 0.5}, 0)
    spoilt = change(table.path.read_text())
    table.path.write_bytes(spoilt)
    for epoch in (3, 4):
        table.log({"epoch": epoch, "loss": 0.25}, 0)
    assert table.path.read_text() == "epoch,loss\n3,0.25\n4,0.25\n"
    assert (tmp_path / "metrics.csv.old").read_bytes() == spoilt
