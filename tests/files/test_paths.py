"""Paths of a config: at home, with backslashes, relative to the project's root."""

from pathlib import Path

import pytest

import tiny
from data_loader import data_loaders
from data_loader.data_loaders import DigitsDataLoader
from examples.char_lm.data import TextLoader
from machinery import files
from machinery.errors import DataError
from parse_config import ConfigParser
from projects import ROOT
from utils import project_path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Somebody's home, with the bundled digits."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mnist5k.npz").symlink_to(ROOT / "data" / "mnist5k.npz")
    return tmp_path


@pytest.mark.parametrize("path", ["~/pictures", "~\\pictures", "{home}/pictures"])
def test_data_at_home(home, path):
    assert DigitsDataLoader(path.format(home=home), 8).n_samples == 4000


def test_a_path_is_of_the_projects_root_from_everywhere(monkeypatch):
    monkeypatch.chdir("/")
    assert project_path("data") == ROOT / "data" == project_path(Path("data"))
    assert DigitsDataLoader("data", 8).n_samples == 4000


def test_backslashes_are_slashes_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert project_path("a\\b\\c") == tmp_path / "a" / "b" / "c"
    (tmp_path / "a\\b").write_text("")
    assert project_path("a\\b") == tmp_path / "a\\b"


def test_what_is_nobodys_home_is_a_name():
    assert project_path("~nobody_of_this_name/x") == ROOT / "~nobody_of_this_name" / "x"


def test_what_is_missing_is_told_with_the_path_that_was_meant(home):
    with pytest.raises(DataError, match=rf"{home}/nothing/mnist5k.npz is missing"):
        DigitsDataLoader("~\\nothing", 8)


def test_runs_at_home(home):
    settings = tiny.settings("~/runs")
    assert ConfigParser(settings).settings.runs_folder == home / "runs" / "models" / "Tiny"


def test_an_examples_file_at_home(home):
    (home / "book.txt").write_bytes((ROOT / "examples/char_lm/genesis.txt").read_bytes())
    assert TextLoader("~/book.txt", context=64, batch_size=32).n_samples > 0


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def _text(data: bytes) -> bytes:
    return b"<html>not found</html>"


def _nothing(data: bytes) -> bytes:
    return b""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy's file
@pytest.mark.parametrize("damaged", [_cut, _flipped, _text, _nothing])
def test_data_that_is_damaged_is_no_fault_of_the_config(tmp_path, damaged):
    whole = (ROOT / "data" / "mnist5k.npz").read_bytes()
    (tmp_path / "mnist5k.npz").write_bytes(damaged(whole))
    args = {"data_dir": str(tmp_path), "batch_size": 8}
    settings = tiny.settings(tmp_path, data_loader={"type": "DigitsDataLoader", "args": args})
    with pytest.raises(DataError, match=r"data_loader \(DigitsDataLoader\): \w+"):
        ConfigParser(settings).init_obj("data_loader", data_loaders)
