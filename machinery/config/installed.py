"""Parts of installed packages, which a config names in full: torchvision.models.resnet18.

A config may come from anybody, and must not call whatever there is: only classes of the section's
kind, functions that make one, and functions that compute a loss or metric, of packages on a list
that the project's own code can lengthen.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, get_origin, get_type_hints

from machinery.config.values import nearest
from machinery.errors import ConfigError
from machinery.files import ROOT
from machinery.telling import told

#: Packages whose parts may be named, and what pip calls them.
_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "torchmetrics": "torchmetrics",
    "timm": "timm",
    "transformers": "transformers",
    "peft": "peft",
    "schedulefree": "schedulefree",
    "pytorch_optimizer": "pytorch-optimizer",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "albumentations": "albumentations",
}
#: Modules that write, run code from elsewhere, or reach the network.
_CLOSED = (
    "torch.hub",
    "torch.jit",
    "torch.package",
    "torch.export",
    "torch.fx",
    "torch.distributed",
    "torch.multiprocessing",
    "torch.testing",
    "torch.utils",
    "torchvision.datasets.lsun",  # it unpickles what lies in a folder
)
#: Torch's datasets and samplers, which may be named inside the arguments of a loader.
TORCHS = ("torch.utils.data.dataset", "torch.utils.data.sampler")
_OPEN = "torch.utils.data"
#: Modules whose functions compute a loss or metric, and have no other effect.
_FUNCTIONS = ("torch.nn.functional", "torchvision.ops", "torchmetrics.functional")
#: Where a name that stands alone may be meant to be from.
_WELL_KNOWN = (
    "torch.nn",
    "torch.nn.functional",
    "torch.utils.data",
    "torchvision.models",
    "torchvision.datasets",
    "torchmetrics",
    "torchmetrics.classification",
    "torchmetrics.regression",
    "schedulefree",
    "timm.optim",
    "timm.scheduler",
    "pytorch_optimizer",
)
#: What needs no network by itself, whatever its arguments but those below.
_OFFLINE = (
    "torch.nn",
    "torch.optim",
    "torchvision.ops",
    "torchvision.transforms",
    "torchvision.datasets",
    "torch.utils.data",
    "torchmetrics.classification",
    "torchmetrics.regression",
    "torchmetrics.segmentation",
    "torchmetrics.aggregation",
    "torchmetrics.functional.classification",
    "torchmetrics.functional.regression",
    "timm.create_model",
    "timm.optim",
    "timm.scheduler",
    "timm.loss",
    "schedulefree",
    "pytorch_optimizer",
    "peft.LoraConfig",
    "peft.LoHaConfig",
    "peft.LoKrConfig",
    "peft.IA3Config",
    "peft.OFTConfig",
    "peft.HRAConfig",
    "peft.LNTuningConfig",
)
#: Its networks take their weights from the network only if they are asked to; those of the modules
#: in it do so by default.
_OFFLINE_NETWORKS = "torchvision.models"
_BY_NAME = "torchvision.models.get_model"
_DATASETS = "torchvision.datasets"
#: Its datasets that unpack, without a download, what they find, or keep what they read in a file.
_UNPACKING = ("ImageNet", "Cityscapes", "PhotoTour")
#: Its datasets that make their root, without a download.
_MAKING = ("Caltech101", "Caltech256", "INaturalist")
#: Arguments of its datasets that are paths.
PATHS = ("root", "annFile", "ann_file")
#: Arguments that ask for what is fetched, or run what was.
FETCHING = (
    "pretrained",
    "pretrained_cfg",
    "weights",
    "weights_backbone",
    "encoder_weights",
    "download",
    "trust_remote_code",
    "megatron_config",
    "megatron_core",
    "corda_config",
    "lora_ga_config",
    "arrow_config",
)


def is_installed(type_name: str, own: tuple[str, ...]) -> bool:
    """Whether a name of a config is the full one of a part of an installed package.

    Args:
        own: the project's own packages.
    """
    package, dot, _ = type_name.partition(".")
    return bool(dot) and package not in own


class Wanted(NamedTuple):
    """What a part has to be."""

    #: In an error message.
    words: str
    #: What it has to be a class of, or has to make.
    base: type | None
    #: Whether functions that only compute will do.
    functions: bool
    #: Whether any schedule will do.
    schedules: bool = False
    #: Of a part of the data: the methods of which it has one, and where it is defined; then there
    #: are no functions.
    methods: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()


def part(type_name: str, wanted: Wanted, own: tuple[str, ...], where: str) -> Any:
    """The class or function of an installed package that a config names.

    Args:
        wanted: what it has to be.
        own: the project's own packages.
        where: what an error message begins with.

    Raises:
        ConfigError: there is none of that kind, or the package is not installed or not allowed.
    """
    path, _, name = type_name.rpartition(".")
    module = _module(path, own, where, bool(wanted.methods))
    value = vars(module).get(name)
    if value is None or name.startswith("_"):
        raise ConfigError(f"{where}: {_none_there(module, name, wanted)}")
    if not _fits(module, name, wanted):
        what = ""
        if wanted.base is not None and not wanted.methods:
            what = f": neither a {wanted.base.__name__} nor a function annotated to return one"
        if _is_in(str(getattr(value, "__module__", "")), (_DATASETS,)):
            what = ': it stands inside a loader: "type": "DatasetLoader", "args": {"dataset": …}'
        raise ConfigError(f"{where}: {type_name} is no {wanted.words}{what}")
    return value


def _module(path: str, own: tuple[str, ...], where: str, of_data: bool) -> ModuleType:
    """A module of an installed package on the list.

    Args:
        of_data: a part of the data is looked up.
    """
    names = path.split(".")
    if not all(name.isidentifier() for name in names):
        raise ConfigError(f"{where}: there is no module {path!r}")
    check_package(path, own, where)
    closed = _is_in(path, _CLOSED) and not (of_data and path == _OPEN)
    if closed or any(name.startswith("_") for name in names):
        raise ConfigError(f"{where}: nothing of {path} may be named in a config")
    try:
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:  # whatever a package raises
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{missing}."):
            raise ConfigError(f"{where}: there is no module {missing}") from error
        raise ConfigError(f"{where}: {path} cannot be imported: {told(error)}") from error


def check_package(path: str, own: tuple[str, ...], where: str) -> None:
    """Refuse a module of a package that is not on the list, or not installed."""
    package, _, _ = path.partition(":")[0].partition(".")
    if package not in _PACKAGES and package not in _own_packages():
        listed = ", ".join(_PACKAGES)
        hint = f'if you trust it, PACKAGES = ("{package}",) in model/__init__.py adds it'
        near = _own_file(path, own) or nearest(package, [*own, *_PACKAGES])
        if near is not None:
            hint = f"did you mean {near}?"
        what = f"there is no module {path} in {', '.join(own)}"
        others = f"{package} is no package whose parts a config may name ({listed})"
        raise ConfigError(f"{where}: {what}, and {others}; {hint}")
    if not _is_there(package):
        pip = _PACKAGES.get(package, package)
        raise ConfigError(f"{where}: {package} is not installed: pip install {pip}")


def _is_there(package: str) -> bool:
    """Whether a package is installed."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # it is another's stand-in, without a spec
        return False


def _own_file(path: str, own: tuple[str, ...]) -> str | None:
    """The full name of a module of the project's own whose folder was left out."""
    for folder in own:
        if (ROOT / folder / f"{path.replace('.', '/')}.py").is_file():
            return f"{folder}.{path}"
    return None


def _own_packages() -> tuple[str, ...]:
    """The packages that the project has added to the list."""
    try:
        own = importlib.import_module("model")
    except ImportError:
        return ()
    return tuple(getattr(own, "PACKAGES", ()))


def _fits(module: ModuleType, name: str, wanted: Wanted) -> bool:
    """Whether what a module has under a name is a part of a kind."""
    value = vars(module)[name]
    if name.startswith("_"):
        return False
    if wanted.methods:
        return inspect.isclass(value) and is_part(value, wanted)
    return _makes(value, wanted)


def _makes(value: Any, wanted: Wanted) -> bool:
    """Whether something of an installed package is a part of a kind, or makes one."""
    assert wanted.base is not None
    home = str(getattr(value, "__module__", ""))
    if _is_in(home, _CLOSED):
        return False
    if inspect.isclass(value):
        is_one = issubclass(value, wanted.base) and value is not wanted.base
        if wanted.schedules and is_schedule(value):
            is_one = True
        return is_one and not inspect.isabstract(value)
    if not inspect.isfunction(value):
        return False
    if wanted.functions and _is_in(home, _FUNCTIONS):
        return True
    made = made_by(value)
    return inspect.isclass(made) and issubclass(made, wanted.base)


def is_schedule(kind: type) -> bool:
    """Whether a class has what a schedule needs, though it is none of torch's, as timm's are."""
    for name in ("step", "state_dict", "load_state_dict"):
        if not callable(getattr(kind, name, None)):
            return False
    try:
        parameters = list(inspect.signature(kind).parameters)
    except (TypeError, ValueError):
        return False
    return parameters[:1] == ["optimizer"]


def is_part(value: type, wanted: Wanted, own: bool = False) -> bool:
    """Whether a class is a part of the data: of the project's `own`, or of where such are."""
    home = str(value.__module__)
    if inspect.isabstract(value):
        return False
    if not own and not _is_in(home, (*wanted.homes, *_own_packages())):
        return False
    if _is_in(home, _CLOSED) and not _is_in(home, TORCHS):
        return False
    if wanted.base is not None and issubclass(value, wanted.base):
        return value is not wanted.base
    if wanted.base is not None and not own:
        return False
    return any(_has(value, method) for method in wanted.methods)


def _has(value: type, method: str) -> bool:
    """Whether the instances of a class have a method."""
    return any(method in vars(each) for each in value.__mro__)


def made_by(function: Any) -> Any:
    """What a function is annotated to return: a class, if it says so."""
    try:
        made = get_type_hints(function).get("return")
    except Exception:  # annotations that cannot be evaluated say nothing
        return None
    if made is Any:
        return None
    return get_origin(made) or made


def makes_another(function: Any, base: type | None) -> bool:
    """Whether a function is annotated to return what cannot be of a class."""
    made = made_by(function)
    if base is None or not inspect.isclass(made):
        return False
    try:
        return not issubclass(made, base) and not issubclass(base, made)
    except TypeError:  # a protocol says nothing
        return False


def makes_callable(function: Any) -> bool:
    """Whether a function is annotated to return what is called."""
    made = made_by(function)
    return inspect.isclass(made) and _has(made, "__call__")


def _none_there(module: ModuleType, name: str, wanted: Wanted) -> str:
    """That a module has no such part, with the nearest."""
    names = []
    for each in vars(module):
        if _fits(module, each, wanted):
            names.append(each)
    near = nearest(name, names)
    hint = ""
    if near is not None:
        hint = f": did you mean {module.__name__}.{near}?"
    return f"{module.__name__} has no {wanted.words} {name!r}{hint}"


def full_name(name: str, kind: Callable[[], Wanted | None]) -> str | None:
    """The full name of a part of that name, in the first installed module that has one.

    Args:
        kind: says what it has to be; it may import what is not installed.
    """
    try:
        wanted = kind()
    except ImportError:
        return None
    if wanted is None:
        return None
    for path in _WELL_KNOWN:
        if not _is_there(path.partition(".")[0]):
            continue
        try:
            module = importlib.import_module(path)
        except (Exception, SystemExit):  # whatever a package raises: this is only for a hint
            continue
        if name in vars(module) and _fits(module, name, wanted):
            return f"{path}.{name}"
    return None


def reaches_out(type_name: str) -> bool:
    """Whether a part of an installed package may need the network by itself."""
    module, _, _ = type_name.rpartition(".")
    if module == _OFFLINE_NETWORKS:
        return type_name == _BY_NAME
    if _is_dataset(type_name, _UNPACKING):
        return True
    return not _is_in(type_name, _OFFLINE)


def makes_root(type_name: str) -> bool:
    """Whether a part of an installed package makes the folder that it reads, if it is not there."""
    return _is_dataset(type_name, _MAKING)


def _is_dataset(type_name: str, names: tuple[str, ...]) -> bool:
    """Whether it is one of torchvision's datasets of these names, by whichever of its modules."""
    module, _, name = type_name.rpartition(".")
    return name in names and _is_in(module, (_DATASETS,))


def _is_in(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a name is one of some modules', or in them."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)
