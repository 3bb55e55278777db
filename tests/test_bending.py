"""The template bends: other tasks need a few methods of a trainer, and nothing in base/."""

from pathlib import Path

import pytest

import tiny
from bending.dicts import DictTrainer, dict_accuracy, dict_loss
from bending.gan import GANTrainer, Generator, spread
from machinery.errors import Stopped
from test_resume import Interrupted, newest


def gan(folder, **kwargs):
    config = tiny.settings(
        folder,
        arch={"type": "Generator", "args": {}},
        metrics=["spread"],
        trainer__monitor="min val_spread",
        data_loader__args={"kind": "whole"},
    )
    tiny.Generator, tiny.spread = Generator, spread
    Generator.__module__ = spread.__module__ = "tiny"
    return tiny.build(config, **kwargs)


def dicts(folder, **kwargs):
    config = tiny.settings(
        folder,
        loss="dict_loss",
        metrics=["dict_accuracy"],
        trainer__monitor="min val_cross_entropy",
        trainer__accumulate=2,
        data_loader__args={"kind": "dicts"},
    )
    tiny.dict_accuracy, tiny.dict_loss = dict_accuracy, dict_loss
    dict_accuracy.__module__ = dict_loss.__module__ = "tiny"
    return tiny.build(config, **kwargs)


@pytest.mark.parametrize("make, base", [(gan, GANTrainer), (dicts, DictTrainer)])
def test_it_trains_saves_and_resumes(tmp_path, make, base):
    whole = make(tmp_path / "whole", trainer_class=base)
    whole.train()
    expected = tiny.rows(whole)
    assert set(base.loss_terms) <= set(expected[0])

    cls = type("Stopping", (Interrupted, base), {"after": 20})
    part = make(tmp_path, trainer_class=cls)
    with pytest.raises(Stopped):
        part.train()
    again = make(tmp_path, trainer_class=base, resume=newest(part.checkpoint_dir))
    again.train()
    assert tiny.rows(again) == expected
    assert tiny.digest(again.model) == tiny.digest(whole.model)
    if make is gan:
        assert tiny.digest(again.critic) == tiny.digest(whole.critic)


def test_the_fixtures_are_small():
    for path in (Path(__file__).parent / "bending").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60
