"""The walls of the design: which part may know which other, read off the import statements."""

import ast
from pathlib import Path

import pytest

import volatility_pipeline

PACKAGE = Path(volatility_pipeline.__file__).parent
FORBIDDEN = {
    "domain": {
        "dagster",
        "dagster_mlflow",
        "mlflow",
        "duckdb",
        "aiokafka",
        "os",
        "pydantic_settings",
    },
    "reports": {"dagster", "dagster_mlflow", "mlflow", "duckdb", "aiokafka"},
    "resources": {"dagster", "typer", "rich"},
    "feed": {"dagster", "dagster_mlflow"},
    "serving": {"dagster", "dagster_mlflow"},
}
INNER_WALLS = {
    "domain": {"assets", "checks", "sensors", "resources", "cli", "feed", "serving", "settings"},
    "reports": {"assets", "checks", "sensors", "resources", "cli", "feed", "serving"},
    "resources": {
        "assets",
        "checks",
        "sensors",
        "cli",
        "feed",
        "serving",
        "definitions",
        "settings",
    },
    "serving": {"assets", "checks", "sensors", "cli", "definitions", "settings"},
    "assets": {"cli", "feed", "serving", "definitions"},
    "checks": {"cli", "feed", "serving", "definitions", "assets"},
    "sensors": {"cli", "feed", "serving", "definitions", "assets", "checks"},
}
HEAVY = {
    *("mlflow", "dagster_mlflow", "sklearn", "xgboost", "matplotlib", "arch", "skops", "pandas"),
    *("evidently", "great_expectations", "reportlab"),
}


def imports(path: Path, *, is_top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, but for those that only the type checker sees."""
    found: set[str] = set()
    skipped: set[ast.AST] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if node in skipped:
            skipped.update(ast.iter_child_nodes(node))
            continue
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if is_typing or (is_function and is_top_level_only):
            skipped.update(ast.iter_child_nodes(node))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("part", FORBIDDEN)
def test_part_imports_no_foreign_library(part: str) -> None:
    for path in (PACKAGE / part).rglob("*.py"):
        libraries = {name.split(".")[0] for name in imports(path)}
        assert not libraries & FORBIDDEN[part], path


@pytest.mark.parametrize("part", INNER_WALLS)
def test_part_imports_nothing_from_above_it(part: str) -> None:
    for path in (PACKAGE / part).rglob("*.py"):
        inner = {
            name.split(".")[1] for name in imports(path) if name.startswith("volatility_pipeline.")
        }
        assert not inner & INNER_WALLS[part], path


def test_no_module_of_the_code_location_imports_a_heavy_library_at_its_top() -> None:
    exempt = {PACKAGE / "domain" / "estimators.py"}  # itself imported where it is used
    for path in set(PACKAGE.rglob("*.py")) - exempt:
        libraries = {name.split(".")[0] for name in imports(path, is_top_level_only=True)}
        assert not libraries & HEAVY, path


def test_walls_would_be_noticed_when_broken(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "from typing import TYPE_CHECKING\nimport dagster as dg\nif TYPE_CHECKING:\n"
        "    import duckdb\ndef f():\n    from mlflow.models import x\n"
    )
    assert imports(module) == {"typing", "dagster", "mlflow.models"}
    assert imports(module, is_top_level_only=True) == {"typing", "dagster"}
