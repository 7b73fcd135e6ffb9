"""`model` never imports Beam or `pipeline`; within `model`, imports go one way."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Lower layers first; a module imports only what stands before it.
LAYERS = [
    "model.digits",
    "model.config",
    "model.counter_random",
    "model.likelihoods",
    "model.networks",
    "model.vae",
    "model.objectives",
    "model.missingness",
    "model.datasets",
    "model.checkpoints",
    "model.training",
    "model.diagnostics",
    "model.pareto",
    "model.sampling.base",
    "model.sampling.pseudo_gibbs",
    "model.sampling.metropolis_within_gibbs",
    "model.sampling.ac_mwg",
    "model.sampling.lair",
    "model.sampling.importance_resampling",
    "model.sampling.hamiltonian",
    "model.sampling.scouts",
    "model.sampling.latent_hmc",
    "model.sampling.annealed_smc",
    "model.sampling",
    "model.sampling.bands",
    "model.sampling.chain",
    "model.sampling.stopping",
    "model.sampling.slots",
    "model.sampling.lanes",
    "model.sampling.evidence",
    "model.sampling.harvest",
    "model.evaluation",
    "model.misfit",
    "model.imputer",
    "model.products",
    "model.throughput",
    "pipeline.values",
    "pipeline.record",
    "pipeline.config",
    "pipeline.counters",
    "pipeline.logs",
    "pipeline.sources",
    "pipeline.spill",
    "pipeline.entries",
    "pipeline.computed",
    "pipeline.watchdog",
    "pipeline.statistics",
    "pipeline.sinks",
    "pipeline.imputation",
    "pipeline.masking",
    "pipeline.summary",
    "pipeline.graph",
    "pipeline.results",
    "pipeline.staging",
    "pipeline.incremental",
    "pipeline.jobs",
    "pipeline.figures",
    "pipeline.text",
    "pipeline.scores",
    "pipeline.comparison",
    "pipeline.report",
    "pipeline.metrics",
    "pipeline.console",
    "pipeline.benchmark",
    "pipeline.cli",
]
WITHOUT_BEAM = {
    "pipeline.values",
    "pipeline.record",
    "pipeline.config",
    "pipeline.statistics",
    "pipeline.figures",
    "pipeline.text",
    "pipeline.comparison",
    "pipeline.report",
}


def modules() -> dict[str, pathlib.Path]:
    found = {}
    for package in ("model", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {member if member in LAYERS else node.module for member in members}
    return names


@pytest.mark.parametrize("module", [name for name in modules() if name not in ("model", "pipeline")])
def test_imports_go_one_way(module):
    if module == "model.digits.make":
        return  # a script, imported by nobody
    used = {name for name in imports(modules()[module]) if name in LAYERS}
    assert module in LAYERS, f"{module} has no layer yet"
    assert used <= set(LAYERS[: LAYERS.index(module)])


@pytest.mark.parametrize("module", [n for n in modules() if n.startswith("model") or n in WITHOUT_BEAM])
def test_no_beam(module):
    assert not {name for name in imports(modules()[module]) if name.split(".")[0] == "apache_beam"}
