"""Groups with an optimizer of their own: several are one, for the schedule, the checkpoint and the
loop."""

import pytest
import torch

import ranks
import tiny
from exact import Exact, furthest
from machinery.config.source import Source
from machinery.config.trust import check_foreign
from machinery.errors import CheckpointError, ConfigError
from machinery.update.runtime import unwrap
from tiny import Interrupted

MUON = {"params": ["fc*"], "ndim": 2, "type": "Muon", "lr": 0.02, "weight_decay": 0.05}
GROUPS = [{"params": ["*.bias"], "weight_decay": 0}, MUON]
IN_ORDER = ["norm.weight", "fc1.bias", "norm.bias", "fc2.bias", "fc1.weight", "fc2.weight"]
ADAM = {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.3}}
COSINE = {"type": "StepLR", "interval": "step", "args": {"step_size": 5, "gamma": 0.7}}


def settings(path, groups=GROUPS, **changes):
    arguments = {"n": 101, "validation_split": 20, "batch_size": 9}
    whole = {"optimizer": {**ADAM, "groups": groups}, "lr_scheduler": COSINE}
    return tiny.settings(path, data_loader__args=arguments, **{**whole, **changes})


build = tiny.as_train_py


def train(config, resume=None):
    trainer = build(config, resume)
    trainer.train()
    return trainer


def weights_of(trainer):
    weights = unwrap(trainer.model).state_dict()
    return {name: value.clone() for name, value in weights.items()}


def test_groups_of_the_same_optimizer_are_groups(tmp_path):
    """AdamW beside AdamW trains as one AdamW with groups."""
    own = {"params": ["fc2.*"], "lr": 0.003, "weight_decay": 0.1}
    apart = train(settings(tmp_path / "a", [{**own, "type": "AdamW"}]))
    together = train(settings(tmp_path / "b", [own]))
    assert type(apart.optimizer).__name__ == "AdamW"
    assert type(apart.optimizer) is not type(together.optimizer)
    assert furthest(weights_of(apart), weights_of(together)) == 0
    assert tiny.rows(apart) == tiny.rows(together)


def test_two_optimizers_train_as_by_hand(tmp_path):
    trained = train(settings(tmp_path / "ours", lr_scheduler=None, trainer__clip_grad_norm=0.5))
    assert type(trained.optimizer).__name__ == "AdamWAndMuon"

    class TwoByHand(tiny.Trainer):
        def _update(self, batches):
            with self.group(batches) as group:
                for batch in group:
                    self.backward(self.compute(batch))
                weights = [self.model.get_parameter(name) for name in IN_ORDER]
                torch.nn.utils.clip_grad_norm_(weights, 0.5)
                group.step(self.optimizer, self.muon)

    bare = build(settings(tmp_path / "hand", [], lr_scheduler=None), trainer_class=TwoByHand)
    named = dict(bare.model.named_parameters())
    matrices = ["fc1.weight", "fc2.weight"]
    rest = [named["norm.weight"]]
    biases = [value for name, value in named.items() if name.endswith("bias")]
    groups = [{"params": rest}, {"params": biases, "weight_decay": 0}]
    bare.optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.3, fused=True)
    bare.muon = torch.optim.Muon([named[name] for name in matrices], lr=0.02, weight_decay=0.05)
    bare.train()
    assert furthest(weights_of(trained), weights_of(bare)) == 0


@pytest.mark.parametrize("after", [4, 14])
def test_a_resume_is_exact(tmp_path, after):
    whole = train(settings(tmp_path / "a"))
    config = settings(tmp_path / "b")
    cls = type("Stops", (Interrupted,), {"after": after})
    trainer = build(config, trainer_class=cls)
    with pytest.raises(tiny.Stopped):
        trainer.train()
    resumed = train(config, resume=tiny.newest(trainer.checkpoint_dir))
    assert furthest(weights_of(resumed), weights_of(whole)) == 0
    assert tiny.rows(resumed) == tiny.rows(whole)
    first, second = (part.optimizer.state_dict() for part in (resumed, whole))
    assert str(first) == str(second) and len(first["state"]) == 6


def test_it_skips_and_accumulates(tmp_path):
    whole = {"trainer__on_nan": "skip", "trainer__accumulate": 3}
    trained = train(settings(tmp_path, **whole))
    assert {len(group["params"]) for group in trained.optimizer.param_groups} == {1, 2, 3}
    rates = [group["lr"] for group in trained.optimizer.param_groups]
    assert rates == pytest.approx([0.01 * 0.7, 0.01 * 0.7, 0.02 * 0.7])


def test_a_group_is_of_parameters_with_just_so_many_dimensions(tmp_path):
    trainer = build(settings(tmp_path, [{"params": ["*"], "ndim": 1, "weight_decay": 0}]))
    names = [group["param_names"] for group in trainer.optimizer.param_groups]
    assert names == [
        ["fc1.weight", "fc2.weight"],
        ["fc1.bias", "norm.weight", "norm.bias", "fc2.bias"],
    ]


def test_a_checkpoint_s_group_may_not_reach_out(tmp_path):
    groups = [{"params": ["*"], "type": "transformers.Adafactor"}]
    source = Source.of(settings(tmp_path, groups), name="a.pth")
    with pytest.raises(CheckpointError, match=r"optimizer\.groups\.0"):
        check_foreign(source, trains=False, new_run=False, unused=())


def test_a_resume_takes_another_rate_for_the_rest(tmp_path):
    path = tiny.newest(train(settings(tmp_path, lr_scheduler=None)).checkpoint_dir)
    optimizer = {"type": "AdamW", "args": {**ADAM["args"], "lr": 0.005}, "groups": GROUPS}
    more = {"trainer__epochs": 4, "lr_scheduler": None}
    resumed = train(settings(tmp_path, optimizer=optimizer, **more), resume=path)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.005, 0.005, 0.02]
    optimizer["args"] = {**ADAM["args"], "betas": [0.8, 0.9]}  # which Muon has not
    resumed = train(settings(tmp_path, optimizer=optimizer, **more), resume=path)
    betas = [group.get("betas") for group in resumed.optimizer.param_groups]
    assert list(map(list, betas[:2])) == [[0.8, 0.9], [0.8, 0.9]] and betas[2] is None
    other = [GROUPS[0], {**MUON, "type": "SGD"}]
    for groups in (other, GROUPS[:1]):
        with pytest.raises((CheckpointError, ConfigError), match="optimizer"):
            train(settings(tmp_path, groups, **more), resume=path)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{**MUON, "ndim": 3}], r"optimizer.groups.0.ndim: no parameter that it matches has 3"),
        ([{**MUON, "ndim": -1}], r"optimizer.groups.0.ndim: expected .*greater than or equal to 0"),
        ([{**MUON, "ndim": None}], r"optimizer.groups.0 \(Muon\): .*2D"),
        ([{**MUON, "moment": 1}], r"groups.0.moment: Muon has no argument 'moment': did you mean"),
        ([{**MUON, "lr": "x"}], r"groups.0.lr: Muon takes lr as float, found .x."),
        (
            [{"params": ["*"], "type": "SGD"}],
            r"optimizer.type: the groups leave AdamW no parameter",
        ),
        (
            [{"params": ["fc1.*"], "type": "LBFGS"}],
            r"groups.0: LBFGS has a state or a step of its own, and can",
        ),
        (
            [{**MUON, "type": "Moun"}],
            r"optimizer.groups.0: .*no optimizer 'Moun': did you mean 'Mu",
        ),
        ([{**MUON, "type": "torch.nn.ReLU"}], r"optimizer.groups.0: torch.nn.ReLU is no optimizer"),
    ],
)
def test_a_mistake_is_told(tmp_path, groups, message):
    with pytest.raises(ConfigError, match=message):
        build(settings(tmp_path, groups))
    assert not list(tmp_path.iterdir())


def test_a_group_without_a_type_is_of_the_optimizer_itself(tmp_path):
    """As the refusal above says."""
    groups = [{"params": ["*.bias"]}, {"params": ["*"], "type": "SGD"}]
    assert type(build(settings(tmp_path, groups)).optimizer).__name__ == "AdamWAndSGD"


def test_one_cycle_wants_a_rate_for_each(tmp_path):
    cycle = {"type": "OneCycleLR", "interval": "step", "args": {"max_lr": 0.1}}
    with pytest.raises(
        ConfigError, match=r"groups.1.lr: the learning rate follows OneCycleLR: give"
    ):
        build(settings(tmp_path / "a", lr_scheduler=cycle))
    cycle["args"] = {"max_lr": [0.01, 0.01, 0.1], "cycle_momentum": False}
    trained = train(settings(tmp_path / "b", lr_scheduler=cycle))
    assert len({group["lr"] for group in trained.optimizer.param_groups}) == 2


def test_optimizers_with_modes_stay_alone(tmp_path, monkeypatch):
    class WithModes(torch.optim.SGD):
        def train(self):
            """Nothing."""

        def eval(self):
            """Nothing."""

    WithModes.__module__ = "tiny"
    monkeypatch.setattr(tiny, "WithModes", WithModes, raising=False)
    group = {"params": ["fc*"], "type": "WithModes"}
    with pytest.raises(ConfigError, match="WithModes has a state or a step of its own"):
        build(settings(tmp_path, [group]))


def trained(folder):
    """In float64, without what draws."""
    groups = [GROUPS[0], {"params": ["fc*"], "ndim": 2, "type": "SGD", "lr": 0.02, "momentum": 0.9}]
    plain = {"arch__args": {"dropout": 0.0, "norm": False}, "trainer__clip_grad_norm": 0.5}
    trainer = build(settings(folder, groups, **plain), trainer_class=Exact)
    trainer.train()
    return {name.removeprefix("module."): value for name, value in weights_of(trainer).items()}


def test_two_processes_train_as_one(tmp_path):
    (alone,) = ranks.run(tmp_path, 1, trained, tmp_path)
    first, second = ranks.run(tmp_path, 2, trained, tmp_path)
    assert furthest(first, second) == 0
    assert furthest(alone, first) < 1e-12
