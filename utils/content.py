"""What a checkpoint holds."""

from typing import Any, NotRequired, TypedDict


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
    #: `step` (batches done in an unfinished epoch, None after a finished one), `finished`, `lr` (of the last update),
    #: and what must be the same for the run to go on exactly: `fixed` of `base.parts.Held`.
    progress: dict[str, Any]
    #: State and class of each of the trainer's other parts, by name.
    states: NotRequired[dict[str, Any]]
    classes: NotRequired[dict[str, str]]
    environment: NotRequired[dict[str, Any]]
    #: Whether it comes from the classic template, which saved less.
    converted: NotRequired[bool]
