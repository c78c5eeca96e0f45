"""The house itself: which way imports go, what is documented, what is never read, what `import thalweg` costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import thalweg

SOURCE = Path(thalweg.__file__).parent

ORDER = (
    "version",
    "errors",
    "progress",
    "costs",
    "memory",
    "sums",
    "collectives",
    "described",
    "space",
    "tables",
    "rows",
    "directions",
    "rank_one",
    "runs",
    "batches",
    "survey",
    "shares",
    "batch_norm",
    "evaluation",
    "losses",
    "trainer",
    "operators",
    "curvature",
    "problem",
    "sharded",
    "task",
    "recording",
    "solvers",
    "analysis",
    "trials",
    "protect",
    "integrations",
    "tasks",
    "measurement",
    "workflow",
    "checkup",
    "decision",
    "study",
    "show",
    "demo",
    "cli",
)
"""From the ground up (docs/decisions/0001): a part imports only what stands before it, and itself."""

ENTRANCES = ("__init__", "__main__")
"""They gather the parts for the user; no part may import them."""

EXTRAS = (
    "sklearn",
    "pandas",
    "transformers",
    "lightning",
    "pytorch_lightning",
    "datasets",
    "accelerate",
    "peft",
    "zarr",
    "tensorboard",
)


# -- the import direction ----------------------------------------------------------------------------------


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every thalweg module that a tree imports: also lazily and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "thalweg":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            if base == "thalweg":  # `from thalweg import x` reaches the part x, or the entrance for a name of it
                for alias in node.names:
                    yield node.lineno, f"thalweg.{alias.name}" if alias.name in ORDER else "thalweg"
            elif base.startswith("thalweg."):
                yield node.lineno, base
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            named = node.args[0] if node.args else None
            if isinstance(named, ast.Constant) and str(named.value).split(".")[0] == "thalweg":
                yield node.lineno, str(named.value)


def breaches(sources: dict[str, str]) -> list[str]:
    """What breaks the direction, for sources by path relative to the package ("operators/base.py")."""
    found = []
    for path, source in sorted(sources.items()):
        part = path.split("/")[0].removesuffix(".py")
        if path.count("/") == 0 and part in ENTRANCES:
            continue
        if part not in ORDER:
            found.append(f"{path}: {part!r} has no place in the house; give it one in ORDER")
            continue
        package = ".".join(["thalweg", *path.split("/")[:-1]])
        for line, name in imported_modules(ast.parse(source), package):
            target = name.split(".")[1] if "." in name else "__init__"
            if target == part:
                continue
            if target not in ORDER:
                found.append(f"{path}:{line} imports {name}, which is no part of the house")
            elif ORDER.index(target) > ORDER.index(part):
                found.append(f"{path}:{line} imports {name}, which stands below {part}")
    return found


def sources() -> dict[str, str]:
    files = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert len(files) > 10
    return files


def test_imports_go_one_way() -> None:
    assert breaches(sources()) == []


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        ("space.py", "from thalweg.problem import Problem", "space.py:1 imports thalweg.problem"),
        ("space.py", "import thalweg.problem as p", "space.py:1 imports thalweg.problem"),
        ("operators/hessian.py", "from ..problem import Problem", "operators/hessian.py:1 imports thalweg.problem"),
        ("operators/hessian.py", "from .. import problem", "operators/hessian.py:1 imports thalweg.problem"),
        ("tables.py", "def f():\n    from thalweg.show.plots import bars", "tables.py:2 imports thalweg.show.plots"),
        ("tables.py", "if TYPE_CHECKING:\n    from thalweg.runs import Run", "tables.py:2 imports thalweg.runs"),
        ("tables.py", "import importlib\nimportlib.import_module('thalweg.cli')", "tables.py:2 imports thalweg.cli"),
        ("workflow.py", "import thalweg", "workflow.py:1 imports thalweg, which is no part"),
        ("workflow.py", "from thalweg import Problem", "workflow.py:1 imports thalweg, which is no part"),
        ("helpers.py", "", "helpers.py: 'helpers' has no place in the house"),
    ],
)
def test_a_planted_breach_is_found(path: str, source: str, why: str) -> None:
    (found,) = breaches({path: source})
    assert found.startswith(why)


def test_what_is_allowed_is_no_breach() -> None:
    allowed = "from thalweg.errors import InputError\nfrom .base import Operator\nimport torch"
    assert breaches({"operators/hessian.py": allowed, "__init__.py": "from thalweg.cli import main"}) == []


# -- what is documented ------------------------------------------------------------------------------------


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages([str(SOURCE)], "thalweg.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def undocumented(module: ModuleType) -> list[str]:
    """Public names of a module, and public members of its classes, that have no docstring of their own."""
    missing = [] if (module.__doc__ or "").strip() else [module.__name__]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) and not value.__doc__:
            missing.append(f"{module.__name__}.{name}")
        if inspect.isclass(value):
            if not value.__doc__ or value.__doc__.startswith(f"{name}("):  # what dataclass writes by itself
                missing.append(f"{module.__name__}.{name}")
            missing += [f"{module.__name__}.{name}.{member}" for member in undocumented_members(value)]
    return missing


def undocumented_members(owner: type) -> list[str]:
    missing = []
    for name, value in vars(owner).items():
        plain = getattr(value, "__func__", value)
        plain = plain.fget if isinstance(plain, property) else getattr(plain, "func", plain)
        if (
            not name.startswith("_")
            and inspect.isfunction(plain)
            and plain.__name__ != "<lambda>"
            and not plain.__doc__
        ):
            missing.append(name)
    return missing


def test_every_public_name_is_documented() -> None:
    assert [name for module in modules() for name in undocumented(module)] == []


def test_every_exported_name_is_documented() -> None:
    exported = getattr(thalweg, "__all__", None)
    assert exported, "thalweg/__init__.py lists what it exports in __all__"
    assert sorted(set(exported)) == sorted(exported)
    for name in exported:
        value: Any = getattr(thalweg, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert (value.__doc__ or "").strip(), name
            assert value.__module__.split(".")[0] == "thalweg", name


def test_a_missing_docstring_is_found() -> None:
    planted = ModuleType("planted", "Words.")
    exec("class Thing:\n    'Words.'\n    def act(self): ...\ndef work(): ...", vars(planted))
    for value in (planted.Thing, planted.work):
        value.__module__ = "planted"
    assert undocumented(planted) == ["planted.Thing.act", "planted.work"]


def unlisted_errors(source: str, path: str) -> list[str]:
    """Public functions that raise by themselves what their docstring does not name."""
    found = []
    tree = ast.parse(source)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in [*tree.body, *(member for owner in classes for member in owner.body)]:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        words = ast.get_docstring(node) or ""
        missing = [error for error in sorted(raised_by(node)) if error not in words]
        found += [f"{path}:{node.lineno} {node.name} raises {error}" for error in missing]
    return found


def raised_by(function: ast.AST) -> set[str]:
    """Names of thalweg's errors in the raise statements of a function, inner functions left out."""
    found: set[str] = set()
    pending = list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            name = node.exc.func.id
            if name.endswith("Error") and hasattr(importlib.import_module("thalweg.errors"), name):
                found.add(name)
        pending.extend(ast.iter_child_nodes(node))
    return found


def test_errors_are_listed_where_they_are_raised() -> None:
    assert [line for path, source in sources().items() for line in unlisted_errors(source, path)] == []


def test_an_unlisted_error_is_found() -> None:
    planted = "def work(x):\n    'Work.'\n    if x:\n        raise InputError('no')\n"
    assert unlisted_errors(planted, "a.py") == ["a.py:1 work raises InputError"]
    assert unlisted_errors(planted.replace("Work.", "Raises InputError."), "a.py") == []


# -- what is never done ------------------------------------------------------------------------------------


def unsafe_reads(source: str) -> list[str]:
    """Ways to execute what a file holds: pickle and what is built on it, eval, exec.

    `torch.load` may be called with a literal `weights_only=True` only: people's checkpoints are such files, and it then
    reads tensors and plain containers and refuses the rest.
    """
    forbidden_modules = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    forbidden_calls = {"torch.load", "torch.save", "np.load", "numpy.load", "eval", "exec"}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in forbidden_modules]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in forbidden_modules:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden_calls:
            plain = [k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords]
            if ast.unparse(node.func) != "torch.load" or not any(plain):
                found.append(ast.unparse(node.func))
    return found


def test_no_pickle_is_read() -> None:
    assert {path: found for path, source in sources().items() if (found := unsafe_reads(source))} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, weights_only=True)",
        "eval(text)",
    ],
)
def test_a_planted_pickle_is_found(planted: str) -> None:
    assert len(unsafe_reads(planted)) == 1


def test_weights_alone_may_be_read() -> None:
    assert unsafe_reads("torch.load(path, map_location='cpu', weights_only=True)") == []


# -- without any extra -------------------------------------------------------------------------------------


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_importing_thalweg_imports_no_extra() -> None:
    done = run_python(f"import sys, thalweg; print([name for name in {EXTRAS!r} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


HEAVY = ("torch", "numpy", "scipy", "matplotlib", "jinja2", "typer", "rich")


def test_importing_thalweg_imports_nothing_heavy() -> None:
    done = run_python(f"import sys, thalweg; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_recording_needs_torch_alone() -> None:
    """A training script with one more line does not wait for what only an analysis needs."""
    program = f"""
import sys, tempfile, torch, thalweg as tw
before = set(sys.modules)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with tempfile.TemporaryDirectory() as folder, tw.watch(model, optimizer, folder + "/run"):
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
print([name for name in {HEAVY!r} if name in sys.modules and name not in before])
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_stub_gives_what_it_lists() -> None:
    tree = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    given = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert given == set(thalweg.__all__)


WITHOUT_EXTRAS = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Absent())

import torch
from torch import nn
import thalweg as tw

for name in tw.__all__:
    getattr(tw, name)
model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
data = [(torch.randn(n, 3).double(), torch.randint(2, (n,))) for n in (5, 3)]
problem = tw.Problem(model, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), data)
pairs = tw.eigenpairs(problem.hessian(), k=2, certify="complete")
assert bool(pairs.converged.all()), pairs.residuals
from thalweg.tables import Table
try:
    Table(("a",), ((1,),)).to_pandas()
except tw.MissingExtraError as error:
    assert "pip install 'thalweg[pandas]'" in str(error), error
else:
    raise AssertionError("pandas is blocked and was imported")
print("worked")
"""


def test_the_core_works_without_any_extra() -> None:
    done = run_python(WITHOUT_EXTRAS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "worked"
