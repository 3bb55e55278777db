"""The template bends: other tasks need a few methods of a trainer, and nothing in base/."""

import pytest

import tiny
from bending.dicts import DictTrainer
from bending.gan import GANTrainer
from bent import dicts, gan
from machinery.errors import Stopped
from projects import ROOT
from tiny import Interrupted, newest


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
    for path in (ROOT / "tests" / "helpers" / "bending").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60
