"""The switches of the trainer: each does what it says, leaves checkpoints clean, and survives a
resume."""

import functools

import pytest
import torch
from torch import nn

import tiny
from base import BaseModel
from examples.ema import EMATrainer
from examples.lbfgs.trainer import LBFGSTrainer
from machinery import telling
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError, ConfigError
from machinery.update.compiling import compiled
from tiny import interrupted


@pytest.fixture
def eager_compiler(monkeypatch):
    """torch.compile without a C++ compiler, which would take half a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


class Convolutions(BaseModel):
    """Asserts its memory format."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        assert x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        assert self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        return self.fc(self.conv(x).mean(dim=(2, 3)))


class Images(tiny.Points):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return torch.stack([x, x + 1])[:, :, None] * torch.ones(5), y


def digests(path):
    state = checkpoint.load(path)
    return {name: value.numpy().tobytes() for name, value in state["state_dict"].items()}


def test_channels_last(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tiny, "TinyModel", type("TinyModel", (Convolutions,), {"__module__": "tiny"})
    )
    monkeypatch.setattr(tiny, "Points", Images)
    trainer = tiny.train(tiny.settings(tmp_path, trainer__channels_last=True))
    assert trainer.epoch == 3


class Volumes(Convolutions):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 1)


class Viewing(Convolutions):
    def forward(self, x):
        return self.fc(self.conv(x).view(len(x), -1)[:, :4])


@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        (Volumes, ConfigError, "channels_last: conv.weight has 5 dimensions"),
        (Viewing, RuntimeError, "trainer.channels_last is why: write x.flatten"),
    ],
)
def test_networks_that_cannot_have_channels_last_are_told(tmp_path, monkeypatch, kind, error, told):
    monkeypatch.setattr(tiny, "TinyModel", type("TinyModel", (kind,), {"__module__": "tiny"}))
    monkeypatch.setattr(tiny, "Points", Images)
    with pytest.raises(error) as caught:
        tiny.train(tiny.settings(tmp_path, trainer__channels_last=True))
    assert told in telling.told(caught.value)
    if kind is Viewing:  # the other is of another number of dimensions
        tiny.train(tiny.settings(tmp_path / "b", trainer__channels_last=False))


@pytest.mark.parametrize("kind", [tiny.Trainer, EMATrainer])
def test_compile_leaves_checkpoints_clean(tmp_path, capfd, eager_compiler, kind):
    config = tiny.settings(tmp_path / "a", trainer__compile=True, trainer__verbosity=1)
    trainer = tiny.train(config, trainer_class=kind)
    assert hasattr(trainer.model, "_orig_mod")
    state = checkpoint.load(trainer.checkpoint_dir / "checkpoint-epoch3.pth")
    assert (
        not any("_orig_mod" in name for name in state["state_dict"])
        and state["arch"] == "TinyModel"
    )
    config = tiny.settings(tmp_path / "b", trainer__compile=True)
    path = interrupted(config, after=16, cls=() if kind is tiny.Trainer else (kind,))
    resumed = tiny.train(config, resume=path, trainer_class=kind)
    assert digests(resumed.checkpoint_dir / "checkpoint-epoch3.pth") == digests(
        trainer.checkpoint_dir / "checkpoint-epoch3.pth"
    )


def test_ema_is_torchs_average_and_is_what_validation_judges(tmp_path):
    seen = []

    class Looking(EMATrainer):
        def _after_update(self, batches):
            super()._after_update(batches)
            seen.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

        def _valid_epoch(self, epoch):
            log = super()._valid_epoch(epoch)
            average, self.ema.module = self.ema.module, self.model
            judged = self.evaluate(self.valid_data_loader)
            self.ema.module = average
            assert log == self.evaluate(self.valid_data_loader) != judged
            return log

    trainer = tiny.train(tiny.settings(tmp_path, trainer__ema_decay=0.8), trainer_class=Looking)
    expected = seen[0]
    for weights in seen[1:]:
        expected = {name: 0.8 * value + 0.2 * weights[name] for name, value in expected.items()}
    for name, parameter in trainer.ema.module.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-6)
    # Training itself is as without.
    plain = tiny.train(tiny.settings(tmp_path / "plain"))
    assert tiny.digest(plain.model) == tiny.digest(trainer.model)


@pytest.mark.parametrize("in_validation", [False, True])
def test_ema_resumes_exactly(tmp_path, in_validation):
    whole = tiny.train(
        tiny.settings(tmp_path / "a", trainer__ema_decay=0.9), trainer_class=EMATrainer
    )
    config = tiny.settings(tmp_path / "b", trainer__ema_decay=0.9)
    path = interrupted(
        config, after=4 if in_validation else 16, in_validation=in_validation, cls=(EMATrainer,)
    )
    resumed = tiny.train(config, resume=path, trainer_class=EMATrainer)
    assert tiny.rows(resumed) == tiny.rows(whole)
    assert tiny.digest(resumed.model) == tiny.digest(whole.model)
    assert tiny.digest(resumed.ema) == tiny.digest(whole.ema)
    assert int(resumed.ema.n_averaged) == 33


def test_ema_is_not_added_to_a_run(tmp_path):
    path = interrupted(tiny.settings(tmp_path), after=16)
    with pytest.raises(
        CheckpointError, match=r"holds other parts than this trainer:\n  missing: ema"
    ):
        tiny.train(tiny.settings(tmp_path), resume=path, trainer_class=EMATrainer)


def test_deterministic(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as a user's own code may
    try:
        trainer = tiny.train(tiny.settings(tmp_path, trainer__deterministic=True))
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert trainer.epoch == 3
        tiny.build(tiny.settings(tmp_path))  # the next run of the process does not ask for it
        assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("first", ["deterministic", "cudnn_benchmark"])
def test_runs_after_each_other_have_their_own_algorithms(tmp_path, monkeypatch, first, before):
    """Both switches set `cudnn.benchmark`: the second run has its own, a third what was before."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    for name in (first, *({"deterministic", "cudnn_benchmark"} - {first})):
        tiny.build(tiny.settings(tmp_path, **{f"trainer__{name}": True}))
        assert torch.are_deterministic_algorithms_enabled() == (name == "deterministic")
        assert torch.backends.cudnn.benchmark == (name == "cudnn_benchmark")
    tiny.build(tiny.settings(tmp_path))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark == before


def test_what_is_off_is_not_there(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path))
    assert isinstance(trainer.model, tiny.TinyModel)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_compiled_model_has_code_for_each_shape(tmp_path, monkeypatch):
    asked = []

    def compiled(model, **options):
        asked.append(options)
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    tiny.build(tiny.settings(tmp_path, trainer__compile=True))
    assert asked == [{"dynamic": False}]


@pytest.mark.soak
def test_a_compiled_run_is_resumed_exactly(tmp_path):
    config = tiny.settings(tmp_path / "whole", trainer__compile=True, trainer__epochs=2)
    whole = tiny.train(config)  # whose last batch is smaller
    torch._dynamo.reset()
    config = tiny.settings(tmp_path / "part", trainer__compile=True, trainer__epochs=2)
    path = interrupted(config, after=15)
    torch._dynamo.reset()
    again = tiny.train(config, resume=path)
    assert tiny.digest(again.model) == tiny.digest(whole.model)
    assert tiny.rows(again) == tiny.rows(whole)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which the compiler looks at
@pytest.mark.parametrize("kind", ["blocks", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_other_ways_to_compile(tmp_path, eager_compiler, monkeypatch, capfd, kind):
    """The weights keep their names, and the numbers are those of code that is not compiled."""
    if kind == "blocks":
        compile_block = nn.Module.compile
        monkeypatch.setattr(
            nn.Module, "compile", lambda self, **kw: compile_block(self, backend="eager", **kw)
        )
    else:
        with_backend = torch.compile

        def without_mode(model, mode, **options):
            assert mode == kind  # which a backend other than inductor does not take
            return with_backend(model, **options)

        monkeypatch.setattr(torch, "compile", without_mode)

    class Towers(BaseModel):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*[nn.Linear(6, 6) for _ in range(3)])
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.blocks(x))

    Towers.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Towers", Towers, raising=False)
    switches = {"trainer__compile": kind, "trainer__verbosity": 2}
    config = tiny.settings(tmp_path / "a", arch={"type": "Towers"}, **switches)
    compiled = tiny.train(config)
    plain = tiny.train({**config, "name": "B", "trainer": {**config["trainer"], "compile": False}})
    assert tiny.rows(compiled) == tiny.rows(plain)
    path = tiny.newest(compiled.checkpoint_dir)
    assert digests(path) == digests(tiny.newest(plain.checkpoint_dir))
    if kind == "blocks":
        called = [module._compiled_call_impl is not None for module in compiled.model.modules()]
        assert called == [False, False, True, True, True, False]
        # The first batch of a process has no hooks in them, and so the code of all others.
        told = [line.split() for line in capfd.readouterr().out.splitlines()]
        assert ["blocks", "Sequential", "[8,", "6]", "126"] in told
        assert ["0", "Linear", "42"] in told and ["head", "Linear", "[8,", "3]", "21"] in told
    more = {**config, "trainer": {**config["trainer"], "epochs": 4}}
    tiny.train(more, resume=path)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_outputs_outlive_the_next_run_of_a_graph(tmp_path, monkeypatch, mode):
    """A CUDA graph writes its results into the same memory each time, as this model does."""
    memory = torch.zeros(1, 3)

    class Replayed(nn.Module):
        def forward(self, x):
            return {"scores": memory.copy_(x[:1, :3]), "of": "x"}

    monkeypatch.setattr(torch, "compile", lambda model, **options: Replayed())
    model = compiled(nn.Identity(), mode)
    first = model(torch.ones(1, 3))
    model(torch.zeros(1, 3))
    assert first["scores"].tolist() == [[1.0] * 3] and first["of"] == "x"


def test_blocks_that_are_not_there_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no list of modules of one class: .* true has"):
        tiny.build(tiny.settings(tmp_path, trainer__compile="blocks"))


def test_tf32_and_benchmark_are_of_the_run_alone(tmp_path):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    switches = {"trainer__precision": "tf32", "trainer__cudnn_benchmark": True}
    tiny.train(tiny.settings(tmp_path / "a", trainer__epochs=1, **switches))
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.benchmark
    tiny.build(tiny.settings(tmp_path / "b"))
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before
    with pytest.raises(ConfigError, match="contradict each other: leave one of them out"):
        tiny.build(tiny.settings(tmp_path, trainer__deterministic=True, **switches))


def test_lbfgs_takes_gradients_that_are_channels_last(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tiny, "TinyModel", type("TinyModel", (Convolutions,), {"__module__": "tiny"})
    )
    monkeypatch.setattr(tiny, "Points", Images)
    weights = []
    for way in (False, True):
        monkeypatch.setattr(
            Convolutions, "forward", lambda self, x: self.fc(self.conv(x).mean((2, 3)))
        )
        config = tiny.settings(tmp_path / str(way), trainer__channels_last=way, lr_scheduler=None)
        config["optimizer"] = {"type": "LBFGS", "args": {"lr": 0.1, "max_iter": 2}}
        config["trainer"]["epochs"] = 1
        trainer = tiny.train(config, trainer_class=LBFGSTrainer)
        weights.append([weight.detach().clone() for weight in trainer.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_fused_step_that_computes_again_has_gradients_as_its_weights_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tiny, "TinyModel", type("TinyModel", (Convolutions,), {"__module__": "tiny"})
    )
    monkeypatch.setattr(tiny, "Points", Images)
    weights = []
    for way in (False, True):
        config = tiny.settings(tmp_path / str(way), trainer__channels_last=True, lr_scheduler=None)
        config["optimizer"] = {"type": "Adam", "args": {"lr": 0.01, "fused": way}}
        config["trainer"]["epochs"] = 1
        trainer = tiny.train(config, trainer_class=LBFGSTrainer)
        weights.append([weight.detach().clone() for weight in trainer.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
