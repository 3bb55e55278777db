"""The house: imports point one way, reading a config loads no torch, and files stay readable."""

import ast
import subprocess
import sys
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


def imports(path):
    """Our own packages that a file imports, but for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name.split(".")[0] for name in names if name.split(".")[0] in OURS)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    files = [ROOT / f"{package}.py"] if package == "parse_config" else (ROOT / package).rglob("*.py")
    for path in files:
        assert set(imports(path)) <= ALLOWED[package], path


@pytest.mark.parametrize("statement", ["import parse_config", "import parse_config, config.schema, logger, utils"])
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
