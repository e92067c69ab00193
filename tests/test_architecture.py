"""The import arrows of ARCHITECTURE.md, held by reading the imports of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for folder in ("app", "backend") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {name_of(path): imports_of(path) for path in MODULES}


def offenders(inside: str, forbidden: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    """Modules at or under `inside` (not `but`) that import one of `forbidden`."""

    def under(name: str, roots: tuple[str, ...]) -> bool:
        return any(name == root or name.startswith(root + ".") for root in roots)

    return [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if under(module, (inside,)) and not under(module, but)
        for name in sorted(names)
        if under(name, forbidden)
    ]


def test_there_are_modules_to_look_at():
    assert len(IMPORTS) > 40


def test_gradio_and_plotly_stay_in_the_app():
    assert offenders("backend", ("gradio", "plotly", "app")) == []


def test_the_app_holds_no_torch_no_sql_and_no_maths():
    assert offenders("app", ("torch", "transformers", "sqlalchemy", "numpy", "safetensors", "peft")) == []


def test_the_app_knows_the_facade_and_the_nouns_only():
    known = {"backend", "backend.api", "backend.types", "backend.errors", "backend.settings"}
    strange = {
        name
        for module, names in IMPORTS.items()
        if module.startswith("app")
        for name in names
        if name.startswith("backend.") and ".".join(name.split(".")[:2]) not in known
    }
    assert strange == set()


def test_sql_stays_in_the_database_module():
    assert offenders("backend", ("sqlalchemy", "sqlite3"), but=("backend.storage.database",)) == []


def test_only_checkpoints_touch_safetensors():
    assert offenders("backend", ("safetensors",), but=("backend.checkpoints",)) == []


def test_only_settings_read_the_environment():
    allowed = ("backend.settings", "backend.evaluation.sandbox_child", "app.__main__")  # the sandbox empties it
    readers = [
        name_of(path)
        for path in MODULES
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
        if name_of(path) not in allowed
    ]
    assert readers == []


@pytest.mark.parametrize("package", ["merging", "tuning", "evaluation"])
def test_the_three_engines_do_not_know_each_other(package):
    others = tuple(f"backend.{other}" for other in ("merging", "tuning", "evaluation") if other != package)
    assert offenders(f"backend.{package}", (*others, "backend.jobs", "backend.api")) == []


@pytest.mark.parametrize("module", ["types", "errors", "params", "registry", "frontier", "evaluation.statistics"])
def test_pure_modules_import_no_torch(module):
    assert offenders(f"backend.{module}", ("torch", "transformers", "backend.lazy")) == []


@pytest.mark.parametrize("folder", ["merging.methods", "evaluation.tasks", "evaluation.judges", "tuning.strategies"])
def test_a_plugin_never_imports_a_plugin(folder):
    assert offenders(f"backend.{folder}", (f"backend.{folder}",)) == []


def test_opening_the_facade_and_reading_the_catalogue_imports_no_torch(tmp_path):
    program = (
        "import sys; from backend.api import Studio; from backend.settings import from_environment;"
        f"Studio(from_environment({{'STUDIO_HOME': {str(tmp_path)!r}}})).catalogue();"
        "print([name for name in ('torch', 'transformers', 'gradio', 'plotly') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
