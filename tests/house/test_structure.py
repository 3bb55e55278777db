"""The house and its plainness: imports point one way, and the code can be read in one go."""

import ast
import importlib
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from house import (
    MACHINERY,
    ROOT,
    around,
    core,
    imports,
    module_of,
    modules,
    own_names,
    private_names,
    rooms,
    set_from_outside,
    shown,
    target,
)
from plainness import (
    decisions,
    dense_statements,
    forbidden_forms,
    functions,
    is_docstring,
    other_forms,
    parsed,
    read,
)

ROOMS = rooms()
AROUND = around()
#: What is read by people who write tools and examples of their own, too.
SHOWN = {**ROOMS, "tools": AROUND["tools"], "examples": AROUND["examples"]}
#: Hidden decisions for each visible one, at most.
HIDDEN = {**dict.fromkeys(SHOWN, 0.5), "read first": 0.3}
#: Tokens that an owner reads first, at most.
TOKENS = 10_000
#: Decisions in forms that the count of the hidden ones does not see, at most.
OTHER = 126
#: What each place may import, its own files apart.
MACHINERY_BELOW = {"logger", "utils", "machinery"}
ALLOWED = {
    "machinery": set(),
    "utils": {"machinery"},
    "logger": {"machinery"},
    "base": {*MACHINERY_BELOW, "parse_config"},
    "trainer": {*MACHINERY_BELOW, "base", "parse_config"},
    "model": {"base", "utils"},
    "data_loader": {"base", "utils"},
    "parse_config": {"logger", "machinery"},
    "test": {*MACHINERY_BELOW, "base", "data_loader", "model", "parse_config", "train", "trainer"},
    "train": {*MACHINERY_BELOW, "base", "data_loader", "model", "parse_config", "trainer"},
}
#: The machinery's files and rooms; each imports only what stands before it.
GROUND = (
    "errors",
    "files",
    "secrets",
    "torchrun",
    "distributed",
    "causes",
    "telling",
    "plain_data",
    "stopping",
    "arriving",
)
ORDER = (*GROUND, *MACHINERY)
#: Modules by which the other rooms enter one of the machinery's, at most.
DOORS = 8
#: Settings that the libraries mean to be set so.
MEANT_TO_BE_SET = {
    "sys.stdout",
    "sys.stderr",
    "sys.excepthook",
    "torch.backends.cudnn.benchmark",
}
#: Private names of third parties, each with the one file that knows it; a comment there says why.
PRIVATE = {
    "_actions": "machinery/launch/options.py",
    "_iterator": "machinery/order/passes.py",
    "_metadata": "machinery/plain_data.py",
    "_opt_called": "machinery/update/schedule.py",
    "_option_string_actions": "machinery/launch/options.py",
    "_orig_mod": "machinery/update/runtime.py",
    "_compiled_call_impl": "machinery/update/compiling.py",
    "_version": "machinery/order/outstanding.py",
    "_step_supports_amp_scaling": "machinery/update/fused.py",
    "_set_pg_timeout": "machinery/distributed.py",
}
#: Documented and public, whatever their names look like.
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}


def told(found):
    """Findings, a line for each."""
    return "\n" + "\n".join(found)


#: Code that is not plain, and what is found in it.
NOT_PLAIN = {
    "x = 1 if a else 2 if b else 3": "a conditional expression in another",
    "x = [a for b in c for a in b]": "two for in a comprehension",
    "x = [[a for a in b] for b in c]": "a comprehension in another",
    "for x in a if b else ():\n    pass": "for over a conditional expression",
    "x = [y for y in (a if b else ())]": "for over a conditional expression",
    "a, b, c = 1, 2, 3": "three values or more in one assignment",
    "x = 's' * (n != 1)": "multiplied by a bool",
    "x = n * any(a)": "multiplied by a bool",
    "def f(one: bool):\n    return [1][:one]": "a bool as an index",
    "def f(a):\n    many = 'x' in a\n    return [1, 2][: -len(a) * many]": "multiplied by a bool",
    "x = pair[a > 0]": "a bool as an index",
    "x = names[: a or None]": "a bool as an index",
}
#: Code that only looks like it.
PLAIN = (
    "x = 1 if a else 2",
    "a, b = 1, 2",
    "a, b, c = row",
    "x = 's' * n",
    "def f(a):\n    mask = a > 0\n    return a[mask] * mask",
    "def f(a):\n    rows = a or []\n    return b[rows]",
)


@pytest.mark.parametrize("code", NOT_PLAIN)
def test_what_is_not_plain_is_found(code):
    assert [each.what for each in forbidden_forms(parsed(ROOT, code))] == [NOT_PLAIN[code]]


@pytest.mark.parametrize("code", PLAIN)
def test_what_is_plain_is_let_be(code):
    assert not list(forbidden_forms(parsed(ROOT, code)))


@pytest.mark.parametrize(
    ("code", "hidden"),
    [
        ("x = [a for a in b if a] or c", 3),
        ("if a and b or c:\n    pass", 0),
        ("assert a and b", 0),
        ("x = 1 if a and b else 2", 2),
        ("for x in a or b:\n    x = y and z", 2),
    ],
)
def test_hidden_decisions_are_counted(code, hidden):
    source = parsed(ROOT, code)
    assert decisions(source, source.tree).hidden == hidden
    assert len(list(dense_statements(source, most=2))) == (hidden > 2)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from base.base_trainer import Log", "base.base_trainer: Log"),
        ("import utils.util", "utils: util"),
        ("import utils", "utils"),
        ("def f():\n    from machinery import files", "machinery: files"),
        ("x = 'base.base_trainer:BaseTrainer'", "base.base_trainer: BaseTrainer"),
        ("x = 'utils.util'", "utils: util"),
        ("x = 'logger.Writer'", "logger: Writer"),
        ("from .files import ROOT", "machinery.files: ROOT"),
        ("x = 'trainer.monitor', 'model', 'logger'", None),
        ("import torch, json", None),
    ],
)
def test_imports_are_found_also_in_texts(code, found):
    source = parsed(ROOT / "machinery" / "errors.py", code)
    assert [str(each) for each in imports(source)] == [found] * (found is not None)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import torch\ntorch.backends.x = 1", ["torch.backends.x"]),
        ("from machinery import files\nfiles.started = 1", ["files.started"]),
        (
            "from machinery import files\nsetattr(files, 'started', 1)",
            ["setattr(files, 'started', 1)"],
        ),
        ("class Own:\n    def f(self):\n        Own.count = 1\nOwn.count = 2", ["Own.count"]),
        ("def f(self, torch_like):\n    self.x = torch_like.y = 1", []),
    ],
)
def test_what_is_set_from_outside_is_found(code, found):
    assert [what for _, what in set_from_outside(parsed(ROOT, code))] == found


@pytest.mark.parametrize("room", SHOWN)
def test_decisions_are_statements(room):
    visible = 0
    hidden = 0
    by_file = []
    for path in SHOWN[room]:
        count = decisions(read(path), read(path).tree)
        visible += count.visible
        hidden += count.hidden
        by_file.append(f"{shown(read(path), 1)} {count.hidden} hidden, {count.visible} visible")
    assert hidden <= HIDDEN[room] * visible, f"{hidden / max(visible, 1):.2f}{told(by_file)}"


def test_what_is_read_first_is_short():
    tokens = {shown(read(path), 1): len(read(path).token_lines) for path in ROOMS["read first"]}
    assert sum(tokens.values()) <= TOKENS, f"{sum(tokens.values())}: {tokens}"


@pytest.mark.parametrize("room", SHOWN)
def test_functions_are_small(room):
    found = []
    for path in SHOWN[room]:
        source = read(path)
        for each in functions(source):
            if each.tokens > 300 or each.lines > 45 or each.complexity > 10:
                found.append(
                    f"{shown(source, each.line)} {each.name}: {each.tokens} tokens, "
                    f"{each.lines} lines, complexity {each.complexity}"
                )
    assert not found, told(found)


def test_tests_have_few_branches_and_short_lines():
    found = []
    for path in AROUND["tests"]:
        source = read(path)
        for each in functions(source):
            if each.complexity > 10:
                found.append(f"{shown(source, each.line)} {each.name}: {each.complexity}")
        for number, line in enumerate(source.text.splitlines(), 1):
            if len(line) > 100:
                found.append(f"{shown(source, number)} {len(line)} columns")
    assert not found, told(found)


@pytest.mark.parametrize("room", SHOWN)
def test_statements_do_one_thing(room):
    found = []
    for path in SHOWN[room]:
        source = read(path)
        for finding in (*dense_statements(source, most=2), *forbidden_forms(source)):
            found.append(f"{shown(source, finding.line)} {finding.what}")
    assert not found, told(found)


@pytest.mark.parametrize("room", SHOWN)
def test_files_fit_a_screen_and_a_sitting(room):
    found = []
    for path in SHOWN[room]:
        source = read(path)
        lines = source.text.splitlines()
        if len(lines) > 450:
            found.append(f"{shown(source, 1)} {len(lines)} lines")
        for number, line in enumerate(lines, 1):
            if len(line) > 100:
                found.append(f"{shown(source, number)} {len(line)} columns")
    assert not found, told(found)


@pytest.mark.parametrize("room", SHOWN)
def test_files_say_what_they_are_for(room):
    found = []
    for path in SHOWN[room]:
        source = read(path)
        doc = ast.get_docstring(source.tree)
        if doc is None or len(doc) < 10 or not is_docstring(source.tree.body[0]):
            found.append(f"{shown(source, 1)} begins without a docstring")
    assert not found, told(found)


def test_decisions_are_not_hidden_in_other_forms():
    by_file = Counter()
    for source in core():
        by_file[str(source.path.relative_to(ROOT))] += len(list(other_forms(source)))
    assert sum(by_file.values()) <= OTHER, f"{sum(by_file.values())}: {by_file}"


def test_nothing_is_global():
    found = []
    for source in core():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Global):
                found.append(f"{shown(source, node.lineno)} {ast.unparse(node)}")
    assert not found, told(found)


def test_modules_and_classes_are_set_from_inside():
    found = []
    for source in core():
        for line, what in set_from_outside(source):
            if what not in MEANT_TO_BE_SET:
                found.append(f"{shown(source, line)} {what} is set")
    assert not found, told(found)


def test_private_names_of_others_are_known_to_one_file_each():
    found = []
    unused = dict(PRIVATE)
    ours = own_names()
    for source in core():
        file = str(source.path.relative_to(ROOT))
        for line, name in private_names(source):
            if name in ours or name in PUBLIC:
                continue
            if PRIVATE.get(name) != file:
                found.append(f"{shown(source, line)} {name}, which is known to {PRIVATE.get(name)}")
            unused.pop(name, None)
    assert not found, told(found)
    assert not unused, f"nobody uses them any more: {unused}"


def test_the_machinery_knows_no_trainer():
    found = []
    for source in core():
        if not module_of(source.path).startswith("machinery"):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.arg) and node.arg == "trainer":
                found.append(f"{shown(source, node.lineno)} has a parameter `trainer`")
    assert not found, told(found)


@pytest.mark.parametrize("place", ALLOWED)
def test_imports_point_one_way(place):
    found = []
    for source in core():
        if module_of(source.path).split(".")[0] != place:
            continue
        for each in imports(source):
            if target(each).split(".")[0] not in (place, *ALLOWED[place]):
                found.append(f"{shown(source, each.line)} imports {each}")
    assert not found, told(found)


@pytest.mark.parametrize("room", ORDER)
def test_the_machinery_is_built_from_the_ground(room):
    below = ORDER[: ORDER.index(room)]
    found = []
    for source in core():
        if _room_of(module_of(source.path)) != room:
            continue
        for each in imports(source):
            other = _room_of(target(each))
            if other is None or other == room:
                continue
            if other not in below or other == "checks":
                found.append(f"{shown(source, each.line)} imports {each}")
    assert not found, told(found)


def _room_of(module):
    """The file or folder of the machinery that a module is, or is in; None outside of it."""
    names = module.split(".")
    if names[0] != "machinery" or len(names) == 1:
        return None
    return names[1]


def test_all_of_the_machinery_has_its_place_in_the_order():
    there = {_room_of(module) for module in modules()} - {None}
    assert there <= set(ORDER), f"say where in the order: {there - set(ORDER)}"


@pytest.mark.parametrize("room", ["order", "config", "update", "checkpoints", "checks"])
def test_a_room_of_the_machinery_has_few_doors(room):
    doors = defaultdict(list)
    for source in core():
        if _room_of(module_of(source.path)) == room:
            continue
        for each in imports(source):
            if _room_of(target(each)) == room:
                doors[target(each)].append(shown(source, each.line))
    lines = [f"{door}, from {', '.join(places)}" for door, places in sorted(doors.items())]
    assert len(doors) <= DOORS, f"{len(doors)}{told(lines)}"


def test_there_are_no_circles_also_not_for_types():
    graph = {}
    for source in core():
        name = module_of(source.path)
        graph[name] = {target(each) for each in imports(source)} - {name}
    done = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            visit(other, [*way, name])
        done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize(
    "statement",
    [
        "import logger",
        "import parse_config",
        "import parse_config, machinery.config.schema, logger, utils",
        "import train",
    ],
)
def test_reading_a_config_loads_no_torch(statement):
    heavy = "[m for m in ('torch', 'numpy', 'pandas', 'tqdm') if m in sys.modules]"
    code = f"import sys; {statement}; print({heavy})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_classic_names_are_where_they_were():
    import base
    import base.base_data_loader
    import base.base_model
    import base.base_trainer
    import logger
    import logger.logger
    import logger.visualization
    import utils
    import utils.util

    classic = "ensure_dir read_json write_json inf_loop prepare_device MetricTracker"
    for name in classic.split():
        assert getattr(utils, name) is getattr(utils.util, name)
    assert base.BaseTrainer is base.base_trainer.BaseTrainer
    assert base.BaseModel is base.base_model.BaseModel
    assert base.BaseDataLoader is base.base_data_loader.BaseDataLoader
    assert logger.TensorboardWriter is logger.visualization.TensorboardWriter
    assert logger.setup_logging is logger.logger.setup_logging


#: What the pages teach people to import in code of their own.
TAUGHT = {
    "utils": (
        "ROOT ConfigError DataError CheckpointError StorageError Stopped catch_user_errors "
        "replacing uniform_rows seeding distributed unwrap MetricTracker"
    ),
    "base": "BaseDataLoader BaseModel BaseTrainer Log one_pass",
    "train": "load_run build main OPTIONS",
    "logger.visualization": "Writer TensorboardWriter",
}


@pytest.mark.parametrize("module", TAUGHT)
def test_what_the_pages_teach_is_there(module):
    there = importlib.import_module(module)
    missing = [name for name in TAUGHT[module].split() if not hasattr(there, name)]
    assert not missing, f"{module} has no {', '.join(missing)}"
