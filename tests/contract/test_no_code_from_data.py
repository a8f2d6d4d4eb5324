"""No file that the project reads is executed: no unpickling, no object-making YAML, no archives, no eval, no shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [file for folder in ("pdetr3d", "ray_jobs", "cluster", "tools") for file in (ROOT / folder).rglob("*.py")]
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "tarfile", "zipfile", "py7zr", "rarfile"}
CHECKS = {
    "dumps",
    "ZipFile",
    "BadZipFile",
}  # of these modules: how many bytes an object has, whether an archive is whole
UNPACKS = {"extract", "extractall", "open", "read"}  # of an archive's methods, those that hand out what is in it
CALLS = {"eval", "exec", "os.system", "os.popen", "shutil.unpack_archive", "torch.hub.load"}
CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle"}
SWITCHES = ("AUTOLOAD_CLOUDPICKLE", "TORCH_FORCE_NO_WEIGHTS_ONLY", "MLFLOW_ALLOW_PICKLE")  # and safe loads are not safe


def found(source: str) -> list[str]:
    """What in a module's text would run code that comes with data."""
    problems = [switch for switch in SWITCHES if switch in source]
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias for alias in node.names if alias.name.split(".")[0] in MODULES]
            problems += [alias.name for alias in modules if not only_writes(tree, alias.asname or alias.name)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            problems.append(str(node.module))
        elif isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = name in CALLS or options.get("shell") == "True" or options.get("allow_pickle") == "True"
            if unsafe or (name == "torch.load" and options.get("weights_only") != "True"):
                problems.append(f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})")
    return problems


def only_writes(tree: ast.AST, module: str) -> bool:
    """Whether ``CHECKS`` is all that is ever used of it, and nothing is unpacked."""
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == module]
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == module.split(".")[0]]
    archives = [
        item.optional_vars.id
        for n in ast.walk(tree)
        if isinstance(n, ast.With)
        for item in n.items
        if isinstance(item.optional_vars, ast.Name) and ast.unparse(item.context_expr).startswith(f"{module}.ZipFile(")
    ]
    unpacks = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and n.attr in UNPACKS and ast.unparse(n.value) in archives
    ]
    used = {use.attr for use in uses}
    return bool(used) and used <= CHECKS and len(names) == len(uses) and not unpacks


def test_no_module_runs_what_it_reads() -> None:
    assert len(SOURCES) > 100
    assert {str(file.relative_to(ROOT)): found(file.read_text()) for file in SOURCES if found(file.read_text())} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle; pickle.loads(pickle.dumps(record))",
        "import pickle as p; p.dumps(record); read(p)",
        "from cloudpickle import loads",
        "import tarfile as t",
        "import zipfile\nwith zipfile.ZipFile(f) as a: a.extractall()",
        "import zipfile\nzipfile.Path(f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "yaml.load(f, Loader=yaml.Loader)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(word, shell=True)",
        "shutil.unpack_archive(f, d)",
        "os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'",
        "eval(text)",
    ],
)
def test_each_such_way_would_be_found(line: str) -> None:
    assert len(found(line)) == 1


def test_safe_ways_are_fine() -> None:
    assert found("import pickle; len(pickle.dumps(record))") == []
    assert found("import zipfile\nwith zipfile.ZipFile(f) as a: a.testzip()") == []
    assert found("torch.load(f, weights_only=True); yaml.safe_load(f); np.load(f); model.eval(); json.load(f)") == []
