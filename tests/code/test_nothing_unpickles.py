"""Nothing here turns data, models or anything from a remote into code: a walk through all of it.

A name that can run what it reads is found by module, by function or by argument. What is allowed is listed with the
reason, so that another use has to be thought about.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "benchmarks", "deploy")
# their readers call what the file names
MODULES = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "jsonpickle", "joblib", "shelve", "marshal", "copyreg"),
    *("torch", "tensorflow", "keras", "runpy", "code", "imp"),
    *("multiprocessing", "distributed"),  # pickle what passes between processes
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "to_pickle", "read_hdf", "deserialize", "unsafe_load", "unsafe_load_all", "full_load"}
YAML_READERS = {"load", "load_all"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "BaseLoader", "CBaseLoader"}
SKOPS_READERS = {"skops.io.load", "skops.io.loads"}

ALLOWED = {
    (
        "src/crashcast/modeling/model.py",
        "skops.io.loads",
    ): "refuses what no model of its algorithm holds before it loads",
    (
        "src/crashcast/execution/cluster/client.py",
        "distributed",
    ): "between the machines of a cluster, which prove who they are by TLS",
    ("src/crashcast/execution/cluster/worker.py", "distributed"): "asks which worker this is",
    ("src/crashcast/execution/runner.py", "multiprocessing"): "between this machine's own processes",
    ("benchmarks/scale.py", "distributed"): "a cluster of this machine's own processes",
    ("tests/model/test_model_file.py", "skops.io.loads"): "reads what the test wrote, of types that skops trusts",
    (
        "tests/model/test_hostile_models.py",
        "pickle",
    ): "writes hostile files, and reads one to see that it would have worked",
    ("tests/system/test_benchmarks.py", "compile"): "parses mutants of this project's own code, runs none",
    ("tests/system/test_workflows.py", "eval"): "the conditions of this project's own workflow, token by token",
    ("tests/system/test_cluster.py", "pickle"): "measures how large what is sent would be, reads none",
}


def findings(source: str) -> Iterator[str]:
    """Yield what in a file can run what it reads."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            yield from [module] * (node.level == 0 and module in MODULES)
            yield from (name.name for name in node.names if name.name in METHODS | {"read_array"})
        elif isinstance(node, ast.Call):
            yield from _call(node, tree)


def _call(node: ast.Call, tree: ast.Module) -> Iterator[str]:
    called = ast.unparse(node.func)
    method = called.rpartition(".")[2]
    if called in BUILTINS or called in SKOPS_READERS or (method in METHODS and "." in called):
        yield called
    if method == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
        yield from [f"import of {node.args[0].value}"] * (str(node.args[0].value).split(".")[0] in MODULES)
    for given in node.keywords:
        if given.arg == "allow_pickle" and not (isinstance(given.value, ast.Constant) and given.value.value is False):
            yield "allow_pickle"
    if method == "YAML":
        kinds = [ast.unparse(given.value) for given in node.keywords if given.arg == "typ"] + [
            *map(ast.unparse, node.args)
        ]
        yield from ["ruamel's unsafe loader"] * any(kind not in ("'safe'", "'rt'") for kind in kinds)
    if method in YAML_READERS and called.partition(".")[0] in _modules_named("yaml", tree):
        loaders = [*node.args[1:], *(given.value for given in node.keywords if given.arg == "Loader")]
        yield from ["yaml without a safe loader"] * (not any(_is_safe(loader, tree) for loader in loaders))


def _modules_named(module: str, tree: ast.Module) -> set[str]:
    """Return the names under which a file imports a module."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    return {name.asname or name.name for node in imports for name in node.names if name.name == module}


def _is_safe(loader: ast.expr, tree: ast.Module) -> bool:
    text = ast.unparse(loader)
    if (bases := _bases(loader, tree)) is not None:  # a mixin is derived of nothing, and loads nothing
        return bool(bases) and all(_bases(base, tree) == [] or _is_safe(base, tree) for base in bases)
    if isinstance(loader, ast.Name) and loader.id not in SAFE_LOADERS:
        values = [
            ast.unparse(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and loader.id in map(ast.unparse, node.targets)
        ]
        text = " ".join(values)
    named = set(re.findall(r"\w*Loader\b", text))
    return bool(named) and named <= SAFE_LOADERS


def _bases(named: ast.expr, tree: ast.Module) -> list[ast.expr] | None:
    """Return what a class of this file is derived of; None where the file has no such class."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == ast.unparse(named))
    return next((own.bases for own in classes), None)


def everywhere() -> set[tuple[str, str]]:
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {
        (path.relative_to(ROOT).as_posix(), found)
        for path in files
        for found in findings(path.read_text(encoding="utf-8"))
    }


def test_nothing_runs_what_it_reads_but_what_is_allowed_for_a_reason() -> None:
    assert everywhere() == ALLOWED.keys()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("import pickle as json", "pickle"),
        ("from pickle import loads", "pickle"),
        ("def f():\n    import joblib.memory", "joblib.memory"),
        ("from torch.hub import load", "torch"),
        ("import importlib\nimportlib.import_module('dill')", "import of dill"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.load(path, allow_pickle=wanted)", "allow_pickle"),
        ("import pandas as pd\npd.read_pickle(path)", "pd.read_pickle"),
        ("from pandas import read_pickle", "read_pickle"),
        ("import polars as pl\npl.LazyFrame.deserialize(path)", "pl.LazyFrame.deserialize"),
        ("import yaml\nyaml.load(text)", "yaml without a safe loader"),
        ("import yaml\nyaml.load(text, yaml.Loader)", "yaml without a safe loader"),
        ("import yaml as y\ny.load(text, Loader=y.FullLoader)", "yaml without a safe loader"),
        ("import yaml\nLOADER = yaml.UnsafeLoader\nyaml.load(text, LOADER)", "yaml without a safe loader"),
        ("import yaml\nclass L(yaml.Loader): pass\nyaml.load(text, L)", "yaml without a safe loader"),
        (
            "import yaml\nclass M: pass\nclass L(M): pass\nclass N(L, yaml.FullLoader): pass\nyaml.load(text, N)",
            "yaml without a safe loader",
        ),
        ("import yaml\nyaml.unsafe_load(text)", "yaml.unsafe_load"),
        ("from ruamel.yaml import YAML\nYAML(typ='unsafe')", "ruamel's unsafe loader"),
        ("import skops.io\nskops.io.load(path, trusted=['os.system'])", "skops.io.load"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("__import__(name)", "__import__"),
    ],
)
def test_each_way_is_found(source: str, found: str) -> None:
    assert [*findings(source)] == [found]


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.load(text, yaml.SafeLoader)",
        "import yaml\nL = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)\nyaml.load(text, L)",
        "import yaml\nclass M: pass\nclass L(M, yaml.SafeLoader): pass\nyaml.load(text, L)",
        "import yaml\nyaml.safe_load(text)",
        "from ruamel.yaml import YAML\nYAML(typ='safe').load(path)",
        "import json, re\njson.load(file)\nre.compile(text)",
    ],
)
def test_what_is_harmless_is_left_alone(source: str) -> None:
    assert [*findings(source)] == []
