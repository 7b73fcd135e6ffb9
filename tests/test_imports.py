"""`model` never imports Beam or `pipeline`; imports go one way, between packages and within
them.
"""

import ast
import graphlib
import pathlib

ROOT = pathlib.Path(__file__).parents[1]

# Lower layers first; a module imports from its own layer and those before it. What names no module
# is a whole package.
LAYERS = [
    ("model",),
    ("model.samplers",),
    ("model.engine",),
    ("model.misfit", "model.imputer", "model.ensemble_imputer"),
    (
        "results.documents",
        "errors",
        "config",
        "counters",
        "logs",
        "metrics",
        "console",
    ),
    ("records",),
    ("store",),
    (
        "summary",
        "results",
        "isolation",
        "progress",
        "imputation",
        "masking",
        "pooling",
        "training_data",
    ),
    ("graph", "jobs"),
    ("report",),
    ("experiments",),
    ("api", "cli", "__main__"),
]
WITHOUT_BEAM = (
    "model",
    "records",
    "errors",
    "config",
    "isolation",
    "progress",
    "report",
    "results.documents",
    "results.reading",
)
SCRIPTS = {"model.digits.make"}  # imported by nobody


def modules() -> dict[str, pathlib.Path]:
    """Name, without `vaefill`, -> file."""
    found = {}
    for package in ("model", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if package == "pipeline" else parts  # which is `vaefill` itself
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {
                member if member.removeprefix("vaefill.") in MODULES else node.module
                for member in members
            }
    return names


def own(path: pathlib.Path) -> set[str]:
    """The modules of this project that a file imports."""
    return {name.removeprefix("vaefill.") for name in imports(path) if name.startswith("vaefill.")}


def layer(module: str) -> int:
    """That of the longest name of `LAYERS` that the module is or lies in."""
    fits = [
        (len(n), i)
        for i, names in enumerate(LAYERS)
        for n in names
        if f"{module}.".startswith(f"{n}.")
    ]
    assert fits, f"{module} has no layer yet"
    return max(fits)[1]


def test_imports_go_one_way():
    chosen = {name: path for name, path in MODULES.items() if name and name not in SCRIPTS}
    above = {
        (name, used)
        for name, path in chosen.items()
        for used in own(path)
        if used in MODULES and layer(used) > layer(name)
    }
    assert not above


def test_no_two_modules_need_each_other():
    graph = {name: own(path) - {name} for name, path in MODULES.items() if name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_beam():
    chosen = {
        n: p for n, p in MODULES.items() if f"{n}.".startswith(tuple(f"{m}." for m in WITHOUT_BEAM))
    }
    assert not [
        n
        for n, path in chosen.items()
        if {name.split(".")[0] for name in imports(path)} & {"apache_beam"}
    ]


def test_there_is_one_name_to_import_by():
    """From a checkout `import model` would work too, and make a second copy of everything."""
    paths = [*MODULES.values(), *(ROOT / "tests").rglob("*.py")]
    others = {"model", "pipeline", "configs"}
    assert not [
        str(path) for path in paths if {name.split(".")[0] for name in imports(path)} & others
    ]
