"""The settings of a trainer: the keys of the section `trainer`.

The table in docs/config.md and `config.schema.json` come from here and from schema.py; the
sentences are the strings below the fields, or descriptions where they are long.
"""

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

#: The units of a time.
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Section(BaseModel):
    """A section of a config: strict types, and keys of the user's own beside the known ones."""

    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, use_attribute_docstrings=True
    )


class TrainerSettings(Section):
    """The section `trainer` of a config, checked and with defaults."""

    type: str = "Trainer"
    """Class of the trainer, from trainer/trainer.py."""
    epochs: int | None = Field(None, ge=1)
    """Number of epochs; train.py asks for it."""
    save_dir: str = Field("saved", pattern=r"^[^\x00]+$")
    """Where runs go; relative to the project's root."""
    save_period: int = Field(1, ge=1)
    """Save every so many epochs; the best and the last are always saved."""
    keep_last: int | None = Field(None, ge=2)
    """Keep only so many epoch checkpoints; null keeps all."""
    save: Literal["all", "trained"] = "all"
    """"trained": checkpoints leave out the weights that are not trained, and know them again."""
    checkpoint: Literal["file", "sharded"] = "file"
    """A checkpoint is one file, or a folder into which each process writes its part."""
    async_save: bool = False
    """Train on while a checkpoint is written; it takes host memory for one more state."""
    save_step: int | None = Field(None, ge=1)
    """Also save inside an epoch, every so many batches; null: only when stopped."""
    verbosity: int = Field(2, ge=0, le=2)
    """0: warnings, 1: also information, 2: also details."""
    monitor: str = Field("off", pattern=r"^(off|(min|max) \S+)$")
    """"min NAME" or "max NAME", a number of the log that says which epoch is best; or "off"."""
    early_stop: int | None = Field(None, ge=0)
    """Stop after so many epochs in a row without improvement; null or 0: never."""
    tensorboard: bool = Field(True, validation_alias=AliasChoices("tensorboard", "tensorboardX"))
    """Write TensorBoard logs."""
    trackers: list[str | dict[str, Any]] = Field(
        [],
        description='Where numbers go besides: "examples.trackers.MLflow", '
        '"examples.trackers.WandB", or components with args.',
    )
    log_step: int = Field(50, ge=1)
    """Read and log the training numbers every so many batches."""
    len_epoch: int | None = Field(None, ge=1)
    """Batches in an epoch; null: one pass over the data."""
    accumulate: int = Field(1, ge=1)
    """Sum the gradients of so many batches for one optimizer step."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Scale gradients down to this 2-norm at most; null: don't."""
    log_grad_norm: bool = False
    """Log the 2-norm of the gradients also where they are not clipped."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Judge, save and test a moving average of the weights with this decay, such as 0.999."""
    max_time: str | None = Field(
        None,
        pattern=r"^([0-9]{0,8}[1-9][0-9]{0,8}(\.[0-9]{1,9})?|0?\.[0-9]{0,8}[1-9][0-9]{0,8})[smhd]$",
        description='A number and "s", "m", "h" or "d", such as "90m": after so much time the run '
        "ends as with its last epoch; that of earlier processes counts.",
    )
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads of each process; null: as many as torch takes."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """"fp32", also with TF32 matrix products, or mixed precision in "bf16" or "fp16"."""
    channels_last: bool = False
    """Keep images channels last in memory: faster convolutions."""
    compile: Literal[
        False, True, "blocks", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    ] = False
    """Compile the model, also in a mode of torch's, or each of its repeated "blocks" by itself."""
    cudnn_benchmark: bool = False
    """Let cuDNN try which convolutions are fastest; the last bits may differ from run to run."""
    recompute: list[str] = []
    """Modules ("blocks.*") whose activations the backward pass computes again, to save memory."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share a model: each has all of it, or a part of each weight."""
    shard: list[str] = []
    """With "fsdp": modules ("blocks.*") that are shared out by themselves."""
    sync_batchnorm: bool = False
    """With several GPUs: let BatchNorm see the whole batch, not each GPU's part of it."""
    find_unused_parameters: bool = False
    """With several processes: the model has parameters that not every loss depends on."""
    timeout: float = Field(600.0, ge=1, le=1e6)
    """Seconds that several processes wait for each other, before the job ends."""
    deterministic: bool = False
    """Refuse GPU operations that may give other bits each time."""
    on_nan: Literal["stop", "skip", "ignore"] = "stop"
    """A loss that is not finite: "stop" the run, "skip" the step (gradients too), "ignore" it."""

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        if self.max_time is None:
            return None
        return float(self.max_time[:-1]) * SECONDS[self.max_time[-1]]


def gpus_in(n_gpu: Any) -> int:
    """How many GPUs a value asks for: a number, or a list of them as classic projects have it.

    "0,1" and [0, 1] are two.
    """
    if isinstance(n_gpu, str):
        return len([each for each in n_gpu.split(",") if each.strip()])
    if isinstance(n_gpu, list | tuple):
        return len(n_gpu)
    return int(n_gpu)
