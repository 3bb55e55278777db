"""The house: imports point one way, reading a config loads no torch, and files stay readable."""

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"base", "config", "data_loader", "logger", "model", "parse_config", "trainer", "utils", "tools"}
ALLOWED = {
    "trainer": {"base", "utils", "trainer"},
    "model": {"base", "utils", "model"},
    "data_loader": {"base", "utils", "data_loader"},
    "base": {"base", "logger", "utils"},
    "logger": {"logger", "utils"},
    "parse_config": {"config", "logger", "utils"},
    "config": {"config", "utils"},
    "utils": {"utils"},
}
#: Lines of code that the core may have.
BUDGET = 4_000


def imports(path):
    """Our own modules that a file imports, with whether for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from ((name, id(node) in for_types) for name in names if name.split(".")[0] in OURS)


def core():
    """The files of the project but tests, tools and examples."""
    top = [*ROOT.glob("*.py"), *(path for name in (*ALLOWED, "config") for path in (ROOT / name).rglob("*.py"))]
    return sorted(set(top))


def code_lines(path):
    """Lines of code: without blanks, comments and docstrings."""
    text = path.read_text()
    documented = set()
    for node in ast.walk(ast.parse(text)):  # strings that stand alone, also below a field, document what is above them
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, node.end_lineno + 1))
    empty = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def test_the_core_stays_within_its_budget():
    table = Counter()
    for path in core():
        parts = path.relative_to(ROOT).parts
        table[parts[0] if parts[1:] else "."] += code_lines(path)
    assert sum(table.values()) <= BUDGET, table


def test_files_and_functions_stay_readable():
    for path in core():
        assert len(path.read_text().splitlines()) <= 300, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                arguments = node.args
                count = len(arguments.args) + len(arguments.kwonlyargs)
                assert length <= 45 and count <= 11, f"{path}:{node.lineno}: {node.name}: {length} lines, {count} args"


def test_there_are_no_circles_also_not_for_types():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in core()}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    # The lazy names of a package's __init__ are no imports of what is inside.
    graph = {
        name: {other for other, _ in imports(path) if other in modules and other != name}
        for name, path in modules.items()
        if path.name != "__init__.py"
    }
    done = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, [*way, name])
            done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    files = [ROOT / f"{package}.py"] if package == "parse_config" else (ROOT / package).rglob("*.py")
    for path in files:
        for name, for_types in imports(path):
            allowed = ALLOWED[package] | ({"parse_config"} if for_types and package in ("base", "trainer") else set())
            assert name.split(".")[0] in allowed, f"{path}: {name}"


@pytest.mark.parametrize(
    "statement", ["import parse_config", "import parse_config, machinery.config.schema, logger, utils"]
)
def test_reading_a_config_loads_no_torch(statement):
    code = f"import sys; {statement}; print([m for m in ('torch', 'numpy', 'pandas', 'tqdm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
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

    for name in ("ensure_dir", "read_json", "write_json", "inf_loop", "prepare_device", "MetricTracker"):
        assert getattr(utils, name) is getattr(utils.util, name)
    assert base.BaseTrainer is base.base_trainer.BaseTrainer
    assert base.BaseModel is base.base_model.BaseModel
    assert base.BaseDataLoader is base.base_data_loader.BaseDataLoader
    assert logger.TensorboardWriter is logger.visualization.TensorboardWriter
    assert logger.setup_logging is logger.logger.setup_logging
