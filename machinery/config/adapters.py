"""What `arch.adapter` puts around a network: an adapter of peft's, or what the project's own makes.

The project's own takes the network as its first argument, and gives one. Of peft a config names the
class of an adapter's settings, such as `peft.LoraConfig`, and gives these.
"""

from collections.abc import Callable
from typing import Any

from machinery.config.components import ADAPTER, OWN, Component
from machinery.config.installed import is_installed


def is_of_peft(component: Component) -> bool:
    """Whether a component is an adapter's settings, rather than what makes one."""
    return component.path == ADAPTER and is_installed(component.type, OWN)


def around(settings: Callable[..., Any]) -> Callable[..., Any]:
    """What puts an adapter of peft's around a network.

    Args:
        settings: the class of its settings.
    """

    def put_around(model: Any, **arguments: Any) -> Any:
        from peft import get_peft_model

        return get_peft_model(model, settings(**arguments))

    return put_around
