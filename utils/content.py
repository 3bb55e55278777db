"""What a checkpoint holds."""

from typing import Any, NotRequired, TypedDict


class Progress(TypedDict):
    """How far a run has come, and what must be the same for it to go on exactly."""

    #: Batches done in an unfinished epoch; None after a finished one.
    step: int | None
    finished: bool
    #: The learning rate of the last update.
    lr: float
    seed: int
    samples: int | None
    validation_split: float | None
    batch_size: int | None
    accumulate: int | None
    #: Batches in an epoch.
    batches: int | None


class Content(TypedDict):
    """What a checkpoint holds: the classic template's keys, and ours."""

    format_version: int
    arch: str
    epoch: int
    #: The bare model's weights.
    state_dict: dict[str, Any]
    optimizer: dict[str, Any]
    monitor_best: float
    config: dict[str, Any]
    progress: Progress
    #: State and class of each of the trainer's other parts, by name.
    states: NotRequired[dict[str, Any]]
    classes: NotRequired[dict[str, str]]
    environment: NotRequired[dict[str, Any]]
    #: Whether it comes from the classic template, which saved less.
    converted: NotRequired[bool]
