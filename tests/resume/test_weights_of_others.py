"""A new run may begin with weights that other programs have written: as they are, in a dict, with
prefixes, as safetensors; nothing else of such a file is read, and only a new run takes it."""

import re

import pytest
import torch

import tiny
from machinery.checkpoints import foreign
from machinery.errors import CheckpointError
from machinery.launch import Launch, read_run
from machinery.update.runtime import unwrap
from parse_config import ConfigParser


def weights():
    """Of the tiny model, from elsewhere."""
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return tiny.TinyModel().state_dict()


def with_prefix(prefix):
    return {prefix + name: value for name, value in weights().items()}


def save_safetensors(values, path):
    torch_of_safetensors = pytest.importorskip("safetensors.torch")
    torch_of_safetensors.save_file(values, path)


def in_an_old_format(values, path):
    torch.save(values, path, _use_new_zipfile_serialization=False)


#: What a file holds, how it is called, and what is told of it.
FILES = {
    "bare": (weights, "w.pth", torch.save, "weights from .*w.pth: 9$"),
    "old format": (weights, "w.pt", in_an_old_format, ": 9$"),
    "state_dict": (lambda: {"epoch": 3, "state_dict": weights()}, "w.ckpt", torch.save, ": 9$"),
    "model": (lambda: {"model": weights(), "optimizer": {}}, "w.bin", torch.save, ": 9$"),
    "module.": (lambda: with_prefix("module."), "w.pth", torch.save, ': 9, .*without "module."$'),
    "model.": (
        lambda: {"state_dict": with_prefix("model.")},
        "w.ckpt",
        torch.save,
        ': 9, their names without "model."$',
    ),
    "of both": (
        lambda: with_prefix("module._orig_mod."),
        "w.pth",
        torch.save,
        ': 9, their names without "module._orig_mod."$',
    ),
    "safetensors": (weights, "w.safetensors", save_safetensors, ": 9$"),
}


def launched(path, tmp_path, **changes):
    launch = Launch("fine-tune", checkpoint=path)
    more = {"trainer__epochs": 1, "trainer__verbosity": 1, **changes}
    return ConfigParser(tiny.settings(tmp_path / "runs", **more), launch=launch)


@pytest.mark.parametrize("kind", FILES)
def test_a_run_begins_with_them(tmp_path, capfd, kind):
    content, name, save, told = FILES[kind]
    save(content(), tmp_path / name)
    trainer = tiny.build(launched(tmp_path / name, tmp_path))
    trainer.restore()
    for key, value in unwrap(trainer.model).state_dict().items():
        assert torch.equal(value, weights()[key])
    assert re.search(told, capfd.readouterr().out, re.MULTILINE)
    trainer = tiny.build(launched(tmp_path / name, tmp_path))
    trainer.train()
    (tmp_path / name).unlink()  # which nothing needs any more
    newest = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    tiny.train(tiny.settings(tmp_path / "runs", trainer__epochs=2), resume=newest)


def test_what_does_not_fit_is_told_and_may_be_left_out(tmp_path, capfd):
    values = with_prefix("model.") | {"criterion.centres": torch.ones(3)}
    values["model.fc2.weight"] = torch.ones(5, 12)
    torch.save(values, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as caught:
        tiny.build(launched(tmp_path / "w.pth", tmp_path))
    lines = str(caught.value).splitlines()
    assert lines[1:3] == [
        "  unexpected: criterion.centres",
        "  wrong shape: fc2.weight [5, 12] -> [3, 12]",
    ]
    assert lines[3].endswith('"arch": {"skip": ["criterion.*", "fc2.*"]}')
    arch = {"type": "TinyModel", "skip": ["criterion.*", "fc2.*"]}
    tiny.build(launched(tmp_path / "w.pth", tmp_path, arch=arch)).restore()
    said = capfd.readouterr().out
    assert ': 7, 3 left out by arch.skip, their names without "model."' in said


def test_weights_of_which_none_fits_are_no_beginning(tmp_path):
    """Leaving all of them out would begin with nothing, silently."""
    torch.save(with_prefix("backbone."), tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as caught:
        tiny.build(launched(tmp_path / "w.pth", tmp_path))
    first, *names = str(caught.value).splitlines()
    assert first.endswith("w.pth has no weight that the model could begin with")
    assert names[0].startswith("  the file's: backbone.fc1.weight [12, 6], backbone.fc1.bias [12]")
    assert names[1].startswith("  the model's: fc1.weight [12, 6], fc1.bias [12]")
    assert names[0].endswith(", …") and names[1].endswith(", …")
    torch.save(weights(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="has no weight that"):
        tiny.build(
            launched(tmp_path / "w.pth", tmp_path, arch={"type": "TinyModel", "skip": ["*"]})
        )


class Code:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize(
    "content, said",
    [
        ([1], "holds a list, and no weights by name"),
        ({"a": 1, "b": {}}, "holds no weights under state_dict, .*; it has 'a', 'b'"),
        ({}, "holds no weights under"),
        ({"state_dict": {3: torch.ones(1)}}, "holds no weights under"),
        ({"state_dict": {"fc1.weight": 3}}, "holds no weights under"),
        ({"format_version": 1, "state_dict": {}}, "is damaged: truncated, or not written by this"),
        ({"state_dict": {"fc1.weight": torch.ones(1)}, "x": Code()}, "refused: .*globals"),
    ],
)
def test_other_files_are_refused(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        path = tmp_path / f"w{number}.pth"
        torch.save(content, path, **options)
        pattern = said
        if number and "globals" in said:
            pattern = "neither a checkpoint nor plain weights"
        if number and "damaged" in said:
            pattern = "is a pickle of an old torch"
        with pytest.raises(CheckpointError, match=pattern):
            launched(path, tmp_path).launch.content()
    assert not (tmp_path / "ran").exists()


def test_what_is_cut_or_no_file_of_weights_is_refused(tmp_path):
    torch.save(weights(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    files = {
        "cut.pth": (whole[:-99], "is damaged: "),
        "junk.pth": (b"junk" * 99, "is neither a checkpoint nor plain weights"),
        "empty.pth": (b"", "is neither a checkpoint nor plain weights"),
        "junk.safetensors": (b"junk" * 99, "cannot be read: "),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            launched(tmp_path / name, tmp_path).launch.content()
    for name in ("no.pth", "no.safetensors"):
        with pytest.raises(CheckpointError, match="does not exist"):
            launched(tmp_path / name, tmp_path).launch.content()
    with pytest.raises(CheckpointError, match="is not a file"):
        launched(tmp_path, tmp_path).launch.content()


def test_only_a_new_run_takes_them(tmp_path):
    torch.save(weights(), tmp_path / "w.pth")
    for call in (
        lambda: tiny.command_line("-r", tmp_path / "w.pth"),
        lambda: read_run(tmp_path / "w.pth"),
    ):
        with pytest.raises(CheckpointError, match="is damaged: truncated, or not written by this"):
            call()


def test_names_of_the_network_s_own_keep_their_prefix():
    names = {"model.fc.weight", "model.fc.bias"}
    saved = dict.fromkeys(names, 1)
    assert foreign.without_prefixes(saved, names) is saved
    more = {f"module.{name}": 1 for name in names} | {"loss.w": 2}
    assert set(foreign.without_prefixes(more, names)) == {*names, "loss.w"}
    twice = {"model.a": 1, "a": 2, "model.b": 3}
    assert foreign.without_prefixes(twice, {"a", "b"}) is twice
