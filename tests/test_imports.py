"""`model` never imports Beam or `pipeline`; within `model`, imports go one way."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Lower layers first; a module imports only what stands before it.
LAYERS = [
    "vaefill.model.digits",
    "vaefill.model.config",
    "vaefill.model.counter_random",
    "vaefill.model.likelihoods",
    "vaefill.model.networks",
    "vaefill.model.vae",
    "vaefill.model.objectives",
    "vaefill.model.missingness",
    "vaefill.model.datasets",
    "vaefill.model.checkpoints",
    "vaefill.model.training",
    "vaefill.model.diagnostics",
    "vaefill.model.pareto",
    "vaefill.model.samplers.base",
    "vaefill.model.samplers.pseudo_gibbs",
    "vaefill.model.samplers.metropolis_within_gibbs",
    "vaefill.model.samplers.ac_mwg",
    "vaefill.model.samplers.lair",
    "vaefill.model.samplers.importance_resampling",
    "vaefill.model.samplers.hamiltonian",
    "vaefill.model.samplers.scouts",
    "vaefill.model.samplers.latent_hmc",
    "vaefill.model.samplers.annealed_smc",
    "vaefill.model.samplers",
    "vaefill.model.engine.bands",
    "vaefill.model.engine.chain",
    "vaefill.model.engine.stopping",
    "vaefill.model.engine.slots",
    "vaefill.model.lanes",
    "vaefill.model.engine.evidence",
    "vaefill.model.engine.harvest",
    "vaefill.model.evaluation",
    "vaefill.model.misfit",
    "vaefill.model.imputer",
    "vaefill.pipeline.experiments.products",
    "vaefill.pipeline.experiments.throughput",
    "vaefill.pipeline.records.values",
    "vaefill.pipeline.records.record",
    "vaefill.pipeline.config",
    "vaefill.pipeline.counters",
    "vaefill.pipeline.logs",
    "vaefill.pipeline.store.sources",
    "vaefill.pipeline.store.spill",
    "vaefill.pipeline.store.entries",
    "vaefill.pipeline.store.computed",
    "vaefill.pipeline.watchdog",
    "vaefill.pipeline.summary.statistics",
    "vaefill.pipeline.store.sinks",
    "vaefill.pipeline.imputation",
    "vaefill.pipeline.masking",
    "vaefill.pipeline.summary.summary",
    "vaefill.pipeline.graph",
    "vaefill.pipeline.results.results",
    "vaefill.pipeline.results.staging",
    "vaefill.pipeline.results.incremental",
    "vaefill.pipeline.jobs",
    "vaefill.pipeline.report.figures",
    "vaefill.pipeline.report.text",
    "vaefill.pipeline.report.scores",
    "vaefill.pipeline.experiments.comparison",
    "vaefill.pipeline.report.report",
    "vaefill.pipeline.metrics",
    "vaefill.pipeline.console",
    "vaefill.pipeline.experiments.benchmark",
    "vaefill.pipeline.cli",
]
WITHOUT_BEAM = {
    "vaefill.pipeline.records.values",
    "vaefill.pipeline.records.record",
    "vaefill.pipeline.config",
    "vaefill.pipeline.summary.statistics",
    "vaefill.pipeline.report.figures",
    "vaefill.pipeline.report.text",
    "vaefill.pipeline.experiments.comparison",
    "vaefill.pipeline.report.report",
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
    if module == "vaefill.model.digits.make":
        return  # a script, imported by nobody
    used = {name for name in imports(modules()[module]) if name in LAYERS}
    assert module in LAYERS, f"{module} has no layer yet"
    assert used <= set(LAYERS[: LAYERS.index(module)])


@pytest.mark.parametrize("module", [n for n in modules() if n.startswith("model") or n in WITHOUT_BEAM])
def test_no_beam(module):
    assert not {name for name in imports(modules()[module]) if name.split(".")[0] == "apache_beam"}
