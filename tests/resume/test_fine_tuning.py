"""Fine-tuning takes the weights of a checkpoint, and nothing else."""

import json

import torch

import tiny
from machinery.checkpoints import file as checkpoint
from machinery.launch import Launch
from parse_config import ConfigParser
from tiny import newest, write_config


def test_fine_tuning_from_a_run_folder_takes_its_best(tmp_path, capfd):
    class Best(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 3.0, 4.0][epoch - 1]}

    folder = tiny.train(tiny.settings(tmp_path), trainer_class=Best).checkpoint_dir
    parser = tiny.command_line("-c", write_config(tmp_path), "-r", folder)
    assert parser.resume == folder / "model_best.pth"
    tiny.train(parser)
    assert f"weights from {folder}/model_best.pth" in capfd.readouterr().out


def states(trainer):
    """Those of the optimizer, the schedule, the monitor and the rest, as text."""
    parts = trainer._held().parts
    assert {"optimizer", "lr_scheduler", "monitor"} <= parts.keys()
    return {name: repr(part.state_dict()) for name, part in parts.items()}


def test_fine_tuning_takes_the_weights_only(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    source = tiny.train(config)
    path = newest(source.checkpoint_dir)
    state = checkpoint.load(path)
    config = tiny.settings(tmp_path, arch={"type": "TinyModel", "args": {}, "skip": ["fc2.*"]})
    trainer = tiny.build(ConfigParser(config, launch=Launch("fine-tune", checkpoint=path)))
    fresh = trainer.model.fc2.weight.clone()
    others = states(trainer)
    trainer.restore()
    assert states(trainer) == others
    assert (trainer.start_epoch, trainer.epoch, trainer.step) == (1, 1, 0)
    assert torch.equal(trainer.model.fc1.weight, state["state_dict"]["fc1.weight"])
    assert torch.equal(trainer.model.fc2.weight, fresh)


def test_a_network_with_extra_state_can_be_fine_tuned(tmp_path, monkeypatch):
    class Extra(tiny.TinyModel):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    monkeypatch.setattr(tiny, "TinyModel", Extra)
    config = tiny.settings(tmp_path, trainer__epochs=1)
    path = tiny.train(config).checkpoint_dir / "checkpoint-epoch1.pth"
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert tiny.train(tiny.command_line("-c", tmp_path / "c.json", "-r", path)).model.seen == 3
