"""The samplers on problems whose answer is known: `python -m tests.oracle_table` prints the table
of docs/method.md.

One record with two latents and eight pixels, in an easy variant and in one with a valley between
two modes of p(z | x_obs). The Jensen-Shannon divergence, in nats, is between p(x_mis | x_obs) over
all completions by quadrature and the Rao-Blackwellised estimate from all that one record's chains
leave.
"""

import time

import numpy as np

from tests import oracles
from vaefill.model import samplers
from vaefill.model.config import SamplerConfig
from vaefill.model.engine.slots import Records, Slots

NUM_REPLICATES = 64  # the same record under so many keys
SETTINGS = {
    "pseudo_gibbs": {"max_sweeps": 2000},
    "metropolis_within_gibbs": {"max_sweeps": 2000},
    "ac_mwg": {"max_sweeps": 2000, "num_warmup": 200},
    "latent_hmc": {"max_sweeps": 2000, "num_leapfrog_steps": 8},
    "lair": {"max_sweeps": 500},
    "importance_resampling": {"max_sweeps": 2000},
    "annealed_smc": {"max_sweeps": 100, "num_particles": 256},
}


def divergences(oracle: oracles.PlaneBernoulli, config: SamplerConfig) -> tuple[np.ndarray, float]:
    """JSD of every replicate, and the seconds that all of them took without compilation."""
    slots = Slots(oracle.vae, samplers.build(oracle.vae, config), config)
    keys = np.stack([np.arange(NUM_REPLICATES), np.full(NUM_REPLICATES, 7)], axis=1).astype(
        np.uint32
    )
    x = np.where(oracle.observed, oracle.x, 0).astype(np.float32)
    records = Records(
        keys, np.tile(x, (NUM_REPLICATES, 1)), np.tile(oracle.observed, (NUM_REPLICATES, 1))
    )
    list(slots.run(Records(*(field[:1] for field in records))))
    began = time.perf_counter()
    finished = [each for call in slots.run(records) for each in call]
    seconds = time.perf_counter() - began
    exact = oracle.missing_posterior(oracle.x, oracle.observed)
    found = []
    for each in finished:
        log_weight = each.trace.log_weight.ravel().astype(np.float64)
        weights = np.exp(log_weight - log_weight.max())
        z = each.trace.z.reshape(-1, 2).astype(np.float64)
        estimate = oracle.rao_blackwell(z, oracle.x, oracle.observed, weights)
        found.append(oracles.jsd(exact, estimate))
    return np.array(found), seconds


def main() -> None:
    """Prints a Markdown table."""
    titles = (
        "sampler",
        "sweeps of a chain",
        "draws of a record",
        "JSD, easy: median, 95 %",
        "JSD, valley: median, 95 %",
        "ms a record",
    )
    for line in (titles, ["---"] * len(titles)):
        print(f"| {' | '.join(line)} |")
    for name, settings in SETTINGS.items():
        never = {"target_r_hat": 1.0 + 1e-9, "target_ess": 1e9}
        config = samplers.sampler_config(
            name, num_evidence_draws=0, slots=1024, **settings, **never
        )
        cells = []
        for variant in ("easy", "valley"):
            found, seconds = divergences(getattr(oracles.PlaneBernoulli, variant)(), config)
            cells.append(f"{np.median(found):.4f}, {np.quantile(found, 0.95):.4f}")
        draws = config.max_kept * config.rows_per_record
        milliseconds = f"{1e3 * seconds / NUM_REPLICATES:.0f}"
        print(
            "| "
            + " | ".join(
                (f"`{name}`", f"{config.max_sweeps:,}", f"{draws:,}", *cells, milliseconds)
            )
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
