"""Everything torch has, by name: optimizers, schedulers, parameter groups, freezing; and what is
refused, with why."""

import inspect
import json

import pytest
import torch

import tiny
from base import BaseModel
from examples.lbfgs.trainer import LBFGSTrainer
from machinery.config.optimization import init_optimizer, init_scheduler
from machinery.errors import ConfigError
from parse_config import ConfigParser
from projects import ROOT

OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
)
SCHEDULERS = sorted(
    name
    for name, value in vars(torch.optim.lr_scheduler).items()
    if inspect.isclass(value)
    and issubclass(value, torch.optim.lr_scheduler.LRScheduler)
    and not name.startswith("_")
    and name != "LRScheduler"
)
ARGUMENTS = {
    "ConstantLR": {},
    "CosineAnnealingLR": {"T_max": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.01, "step_size_up": 2, "cycle_momentum": False},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [1, 2]},
    "OneCycleLR": {"max_lr": 0.01},
    "PolynomialLR": {},
    "ReduceLROnPlateau": {"patience": 0},
    "StepLR": {"step_size": 1},
}
REFUSED = {
    "Muon": "Muon only supports 2D parameters",
    "LambdaLR": "a function cannot come from a config",
    "MultiplicativeLR": "a function cannot come from a config",
    "ChainedScheduler": "ChainedScheduler has no argument",
    "SequentialLR": "SequentialLR needs 'schedulers'",
}


def build(config, **kwargs):
    """A trainer, with the optimizer and the scheduler as train.py makes them."""
    parser = ConfigParser(config)
    loader = parser.init_obj("data_loader", tiny.HERE)
    model = parser.init_obj("arch", tiny.HERE)
    optimizer = init_optimizer(parser, model)
    kind = LBFGSTrainer if type(optimizer) is torch.optim.LBFGS else tiny.Trainer
    return kind(
        model,
        parser.init_ftn("loss", tiny.HERE),
        parser.init_ftns("metrics", tiny.HERE),
        optimizer,
        config=parser,
        device=torch.device("cpu"),
        data_loader=loader,
        valid_data_loader=loader.split_validation(),
        lr_scheduler=init_scheduler(parser, optimizer, len(loader)),
        **kwargs,
    )


def resumed(config, trainer):
    """The same run, continued from its first epoch."""
    parser = ConfigParser(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    again = tiny.build(parser, trainer_class=type(trainer))
    again.train()
    return again


def works(tmp_path, config, refusal):
    if config["optimizer"]["type"] == "SparseAdam":  # torch says it itself, at the first step
        with pytest.raises(ConfigError, match="does not support dense gradients"):
            build(config).train()
        return
    if refusal is not None:
        with pytest.raises(ConfigError, match=refusal):
            build(config).train()
        assert not list(tmp_path.iterdir())
        return
    trainer = build(config)
    start = tiny.digest(trainer.model)
    trainer.train()
    assert tiny.digest(trainer.model) != start
    assert tiny.digest(resumed(config, trainer).model) == tiny.digest(trainer.model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_or_says_why_not(tmp_path, name):
    args = {"lr": 0.01} if name != "LBFGS" else {"lr": 0.1, "max_iter": 4}
    works(
        tmp_path, tiny.settings(tmp_path, optimizer={"type": name, "args": args}), REFUSED.get(name)
    )


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_every_scheduler_trains_or_says_why_not(tmp_path, name, interval):
    args = ARGUMENTS.get(name, {"lr_lambda": "lambda epoch: 0.9"})
    refusal = REFUSED.get(name)
    if (name, interval) == ("ReduceLROnPlateau", "step"):
        refusal = "ReduceLROnPlateau judges epochs"
    scheduler = {"type": name, "args": args, "interval": interval}
    works(tmp_path, tiny.settings(tmp_path, lr_scheduler=scheduler), refusal)


def test_without_a_monitor_a_plateau_is_one_of_the_validation_loss(tmp_path):
    config = tiny.settings(
        tmp_path,
        lr_scheduler={"type": "ReduceLROnPlateau"},
        trainer__monitor="off",
        trainer__epochs=1,
    )
    trainer = tiny.train(config, trainer_class=tiny.best_by_epoch([7.0]))
    assert trainer.lr_scheduler.best == 7.0


def test_lbfgs_solves_what_it_should(tmp_path):
    config = tiny.settings(
        tmp_path,
        optimizer={"type": "LBFGS", "args": {"line_search_fn": "strong_wolfe"}},
        arch={"type": "TinyModel", "args": {"dropout": 0.0, "norm": False}},
        lr_scheduler=None,
        data_loader__args={"batch_size": 103, "validation_split": 0.0},
        trainer__accumulate=1,
        trainer__monitor="min loss",
    )
    first = build({**config, "optimizer": {"type": "SGD", "args": {"lr": 0.1}}})
    first.train()
    second = build(config)
    second.train()
    assert second.monitor.best < 0.5 * first.monitor.best


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_takes_the_steps_of_a_hand_written_loop(tmp_path, search):
    arguments = {"lr": 0.1, "max_iter": 3, "line_search_fn": search}
    config = tiny.settings(
        tmp_path,
        optimizer={"type": "LBFGS", "args": arguments},
        arch={"type": "TinyModel", "args": {"dropout": 0.0, "norm": False}},
        lr_scheduler=None,
        data_loader__args={"kind": "whole", "validation_split": 0.0},
        trainer__monitor="off",
        trainer__epochs=2,
    )
    trainer, bare = build(config), build({**config, "name": "Bare"})
    trainer.train()
    optimizer = torch.optim.LBFGS(bare.model.parameters(), **arguments)
    bare.model.train()
    for _ in range(2):
        for x, y in bare.data_loader:

            def closure():
                optimizer.zero_grad()
                loss = tiny.cross_entropy(bare.model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert tiny.digest(bare.model) == tiny.digest(trainer.model)


def test_lbfgs_in_groups_equals_one_large_batch(tmp_path):
    def run(batch_size, accumulate):
        config = tiny.settings(
            tmp_path,
            optimizer={"type": "LBFGS", "args": {"lr": 0.1, "max_iter": 3}},
            arch={"type": "TinyModel", "args": {"dropout": 0.0, "norm": False}},
            data_loader__args={"batch_size": batch_size, "validation_split": 0.0},
            trainer__accumulate=accumulate,
            trainer__monitor="off",
        )
        trainer = build(config)
        trainer.model.double()
        trainer.data_loader._passes.fetcher.dataset = Doubles(trainer.data_loader.dataset)
        trainer.train()
        return trainer.model

    for a, b in zip(run(7, 3).parameters(), run(21, 1).parameters()):
        assert float((a - b).detach().abs().max()) < 1e-9


class Doubles:
    def __init__(self, dataset):
        self.dataset = dataset
        dataset.noise = False

    def __getitem__(self, i):
        x, y = self.dataset[i]
        return x.double(), y


def two_rates(named_parameters, lr=0.1, head_lr=0.01, weight_decay=0.5):
    """Groups by name, as a function of the user's own makes them."""
    head = [(name, parameter) for name, parameter in named_parameters if name.startswith("fc2")]
    rest = [(name, parameter) for name, parameter in named_parameters if not name.startswith("fc2")]
    groups = [{"params": rest}, {"params": head, "lr": head_lr, "weight_decay": weight_decay}]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


@pytest.fixture
def rates(monkeypatch):
    monkeypatch.setattr(tiny, "two_rates", two_rates, raising=False)


@pytest.mark.usefixtures("rates")
def test_groups_of_parameters(tmp_path):
    settings = tiny.settings(tmp_path, trainer__epochs=1)
    settings["optimizer"] = {"type": "two_rates", "args": {"head_lr": 0.02}}
    config = ConfigParser(settings)
    model = config.init_obj("arch", tiny)
    optimizer = init_optimizer(config, model, tiny)
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 2]
    assert optimizer.param_groups[1]["param_names"] == ["fc2.weight", "fc2.bias"]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.1, 0),
        (0.02, 0.5),
    ]


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_learning_rate_of_a_resumed_run_leaves_groups_with_their_own(tmp_path, scheduled):
    config = tiny.settings(
        tmp_path, trainer__epochs=1, optimizer={"type": "two_rates", "args": {"lr": 0.1}}
    )
    if not scheduled:
        config["lr_scheduler"] = None
    resumed = []

    def build(*arguments):
        parser = tiny.command_line(*arguments)
        model = parser.init_obj("arch", tiny)
        optimizer = init_optimizer(parser, model, tiny)
        loader = parser.init_obj("data_loader", tiny)
        scheduler = init_scheduler(parser, optimizer, len(loader))
        metrics = parser.init_ftns("metrics", tiny)
        trainer = tiny.Trainer(
            model, tiny.cross_entropy, metrics, optimizer, parser, torch.device("cpu"), loader
        )
        trainer.valid_data_loader, trainer.lr_scheduler = loader.split_validation(), scheduler
        resumed.append(trainer)
        return trainer

    config["trainer"]["monitor"] = "off"
    (tmp_path / "c.json").write_text(json.dumps(config))
    first = build("-c", tmp_path / "c.json")
    first.train()
    again = build("-r", first.checkpoint_dir, "--set", "optimizer.args.lr=0.5")
    again.restore()
    assert [group["lr"] for group in again.optimizer.param_groups] == [0.5, 0.01]
    assert not scheduled or again.lr_scheduler.base_lrs == [0.5, 0.01]
    again.config.run.close()
    refused = build("-r", first.checkpoint_dir, "--set", "optimizer.args.head_lr=0.5")
    with pytest.raises(
        ConfigError, match=r"optimizer.args.head_lr of a running optimizer cannot be changed"
    ):
        refused.restore()


def test_freezing(tmp_path):
    config = tiny.settings(
        tmp_path, arch={"type": "TinyModel", "args": {}, "freeze": ["fc1.*", "norm.weight"]}
    )
    trainer = build(config)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    assert str(trainer.model).endswith("Trainable parameters: 51")
    trainer.train()
    same = {
        name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])
    }
    assert same == {"fc1.weight", "fc1.bias", "norm.weight"}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"arch": {"type": "TinyModel", "freeze": ["fc9.*"]}},
            "arch.freeze: 'fc9.*' matches no parameter; there are: fc1",
        ),
        ({"arch": {"type": "TinyModel", "freeze": ["*"]}}, "the model has no parameter to train"),
        (
            {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 1, "total_steps": 7}}},
            "made for 7 steps, but the run takes 3",
        ),
        (
            {
                "lr_scheduler": {
                    "type": "OneCycleLR",
                    "args": {"max_lr": 1, "epochs": 3, "steps_per_epoch": 11},
                }
            },
            "made for 33 steps, but the run takes 3 (one every epoch)",
        ),
        (
            {"lr_scheduler": {"type": "ReduceLROnPlateau"}, "trainer__monitor": "max val_accuracy"},
            'set its "mode" to "max"',
        ),
        (
            {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": -1}}},
            "lr_scheduler: makes learning rates of -",
        ),
        (
            {"optimizer": {"type": "Adam", "lr": 3}},
            "optimizer.lr is unknown: did you mean optimizer.args.lr?",
        ),
        (
            {"arch": {"type": "TinyModel", "width": 3}},
            "arch.width is unknown: did you mean arch.args.width?",
        ),
        ({"epochs": 3}, "epochs is unknown: did you mean 'trainer.epochs'?"),
        ({"trainer__seed": 3}, "trainer.seed is unknown: did you mean 'seed'?"),
        ({"loss": "cross_entropie"}, "has no loss 'cross_entropie': did you mean 'cross_entropy'?"),
        (
            {"trainer__accumulate": 12},
            "trainer.accumulate: 12 batches are more than the 11 of an epoch",
        ),
        (
            {"trainer__save_step": 11},
            "trainer.save_step: an epoch has 11 batches, so this would never save",
        ),
        (
            {"trainer__monitor": "off", "trainer__early_stop": 3},
            "trainer.early_stop: there is nothing to judge by",
        ),
        ({"trainer__monitor": "min val_los"}, "trainer.monitor: no metric is called 'val_los'"),
        (
            {"data_loader__args": {"validation_split": 0.0}},
            "'val_loss' (there is no validation data)",
        ),
        ({"metrics": [{"type": "accuracy", "name": "lr"}]}, "metrics: the name 'lr' is taken"),
        ({"metrics": [{"type": "accuracy", "name": "loss"}]}, "metrics: the name 'loss' is taken"),
        (
            {"optimizer": {"type": "LBFGS"}, "trainer__precision": "fp16"},
            "LBFGS computes its loss several times",
        ),
        (
            {"data_loader__args": {"validation_split": 1.0}},
            "validation_split 1.0 of 103 leaves 0 for training",
        ),
        (
            {"data_loader__args": {"validation_split": 103}},
            "validation_split 103 of 103 leaves 0 for training",
        ),
        (
            {"data_loader__args": {"pin_memori": True}},
            "TinyLoader has no argument 'pin_memori': did you mean 'pin_memory'?",
        ),
        ({"data_loader__args": {"nonsense": 1}}, "TinyLoader has no argument 'nonsense'"),
        (
            {"data_loader__args": {"prefetch_factor": "2"}},
            'TinyLoader takes prefetch_factor as int | None, found "2"',
        ),
        (
            {"data_loader__args": {"persistent_workers": "no"}},
            'TinyLoader takes persistent_workers as bool, found "no"',
        ),
        (
            {"optimizer__args": {"lr": "0.1"}},
            'optimizer.args.lr: Adam takes lr as float | Tensor, found "0.1"',
        ),
        (
            {"optimizer__args": {"lr": 0.1, "betas": [0.9]}},
            "optimizer.args.betas: Adam takes betas as "
            "tuple[float | Tensor, float | Tensor], found a list of 1",
        ),
        ({"optimizer__args": {"lr": 0.1, "amsgrad": 1}}, "Adam takes amsgrad as bool, found 1"),
        (
            {"lr_scheduler": {"type": "StepLR", "args": {"step_size": 0.5}}},
            "StepLR takes step_size as int, found 0.5",
        ),
        ({"lr_scheduler": {"type": "StepLR"}}, "lr_scheduler.args: StepLR needs 'step_size'"),
        (
            {"lr_scheduler": {"type": "StepLR", "args": {"optimizer": 1, "step_size": 1}}},
            "the program gives StepLR its optimizer",
        ),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ConfigError) as caught:
        build(tiny.settings(tmp_path / "runs", **changes))
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_all_components_are_checked_together(tmp_path):
    config = tiny.settings(
        tmp_path,
        arch={"type": "TinyModl"},
        optimizer__args={"lrr": 1},
        loss="cross_entropi",
        metrics=["accuracy", "acuracy"],
        data_loader__args={"batchsize": 3},
    )
    parts = {"arch": tiny.HERE, "loss": tiny.HERE, "metrics": tiny.HERE, "data_loader": tiny.HERE}
    with pytest.raises(ConfigError) as caught:
        ConfigParser(config).check(
            **parts, optimizer=torch.optim, lr_scheduler=torch.optim.lr_scheduler
        )
    text = str(caught.value)
    for name in ("TinyModel", "lr", "cross_entropy", "accuracy", "batch_size"):
        assert f"did you mean {name!r}?" in text


class Words(BaseModel):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(6, 3, sparse=True)

    def forward(self, x):
        return self.embedding(x.argmax(1))


def test_sparse_adam_trains_what_is_sparse(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "TinyModel", type("TinyModel", (Words,), {"__module__": "tiny"}))
    config = tiny.settings(tmp_path, optimizer={"type": "SparseAdam", "args": {"lr": 0.1}})
    trainer = build(config)
    start = tiny.digest(trainer.model)
    trainer.train()
    assert tiny.digest(trainer.model) != start


def test_the_bundled_configs_pass_their_own_checks():
    import data_loader.data_loaders as module_data
    import model.loss as module_loss
    import model.metric as module_metric
    import model.model as module_arch
    from machinery.config.source import Source

    ConfigParser(Source.read(ROOT / "config.json")).check(
        data_loader=module_data,
        arch=module_arch,
        loss=module_loss,
        metrics=module_metric,
        optimizer=torch.optim,
    )


def test_a_type_that_was_set_alone_is_told_from_where(tmp_path):
    path = tiny.write_config(tmp_path)
    parser = tiny.command_line("-c", path, "--set", "arch.type=TinyModle")
    with pytest.raises(ConfigError, match=r"^command line \(--set arch\.type\): arch: "):
        parser.init_obj("arch", tiny)
