"""How often a record that has converged is wrong: `python -m tests.false_convergence` prints the
table of the docs.

Records whose p(z | x_obs) is a mixture of two to four normal distributions of known weights
(`oracles.Modes`), 4 to 12 of their standard deviations apart, in 2 to 32 latents, with the
defaults. A record is wrong if its `mean` is off, in any value, by more than 4 of the standard
errors that it promises: stddev / sqrt(ess).
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tests import oracles
from vaefill.model import samplers
from vaefill.model.imputer import Imputer

SEPARATIONS = (4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
NUM_MODES = (2, 3, 4)
_MOST_ERRORS = 4.0  # standard errors


class Count(NamedTuple):
    """Of some records."""

    records: int
    converged: int
    wrong: int  # of those that have converged

    def __add__(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(self, other)))


class Trial:
    """Imputes copies of a record, under keys of their own, for one mixture after another."""

    def __init__(self, latent_size: int, num_records: int, **settings):
        self._oracle, self._num = oracles.Modes(latent_size), num_records
        self._imputer = Imputer(
            self._oracle.vae, samplers.sampler_config(num_evidence_draws=0, **settings)
        )

    def __call__(self, mixture: oracles.Mixture) -> Count:
        """How many of the records converge, and how many are wrong."""
        self._oracle.set(mixture)
        shape = (self._num, 1, self._oracle.num_values, 1)
        observed = np.broadcast_to(self._oracle.observed[:, np.newaxis], shape)
        found = self._imputer(
            np.zeros(shape, np.float32), observed, [b"%d" % i for i in range(self._num)]
        )
        missing = ~self._oracle.observed
        mean, stddev = (field[:, 0, missing, 0] for field in (found.mean, found.stddev))
        ess = np.minimum(found.ess_bulk, found.ess_tail)[:, np.newaxis]
        error = np.abs(mean - self._oracle.moments()[0])
        wrong = (error * np.sqrt(ess) > _MOST_ERRORS * stddev).any(axis=1)
        converged = found.converged
        return Count(self._num, int(converged.sum()), int((wrong & converged).sum()))


def mixtures(
    latent_size: int, separations: Sequence[float], seed: int = 0
) -> list[oracles.Mixture]:
    """Of every number of modes at every separation, weights, widths and directions at random."""
    rng = np.random.default_rng([seed, latent_size])
    return [
        oracles.draw_mixture(num_modes, latent_size, separation, rng)
        for separation in separations
        for num_modes in NUM_MODES
    ]


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-records", type=int, default=32, help="of each mixture")
    parser.add_argument("--num-scouts", type=int, default=samplers.sampler_config().num_scouts)
    parser.add_argument("--latent-sizes", type=int, nargs="+", default=[2, 8, 32])
    arguments = parser.parse_args()
    print(
        "| latents | separation | records | converged | of these wrong |",
        "| --- | --- | --- | --- | --- |",
        sep="\n",
    )
    total = Count(0, 0, 0)
    for latent_size in arguments.latent_sizes:
        trial = Trial(latent_size, arguments.num_records, num_scouts=arguments.num_scouts)
        for index, separation in enumerate(SEPARATIONS):
            chosen = mixtures(latent_size, SEPARATIONS)[
                index * len(NUM_MODES) : (index + 1) * len(NUM_MODES)
            ]
            found = sum(map(trial, chosen), Count(0, 0, 0))
            total += found
            print(
                f"| {latent_size} | {separation:g} | {found.records} | "
                f"{found.converged} | {found.wrong} |",
                flush=True,
            )
    share = 100 * total.wrong / max(total.converged, 1)
    print(f"| all | | {total.records} | {total.converged} | {total.wrong}: {share:.1f} % |")


if __name__ == "__main__":
    main()
