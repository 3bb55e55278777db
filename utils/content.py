"""What a checkpoint holds."""

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12


class Progress(TypedDict):
    """How far a run has come; beside it stands what must be the same for it to go on (`fixed` of `base.parts.Held`)."""

    #: Batches done in an unfinished epoch; None after a finished one.
    step: Annotated[int, Field(ge=1)] | None
    finished: bool
    #: The learning rate of the last update.
    lr: float


class Content(TypedDict):
    """What a checkpoint holds: the classic template's keys, and ours."""

    format_version: Annotated[int, Field(ge=1)]
    arch: str
    epoch: Annotated[int, Field(ge=1)]
    #: The bare model's weights.
    state_dict: dict[str, Any]
    optimizer: dict[str, Any]
    monitor_best: float
    config: dict[str, Any]
    progress: Progress
    #: State and class of each of the trainer's other parts, by name.
    states: NotRequired[dict[str, dict[str, Any]]]
    classes: NotRequired[dict[str, str]]
    environment: NotRequired[dict[str, Any]]
    #: Whether it comes from the classic template, which saved less.
    converted: NotRequired[bool]
