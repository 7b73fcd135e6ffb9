"""How well a sampler is calibrated, with the stopping rule in force: `python -m tests.calibration`
prints it.

z ~ p(z), x ~ p(x | z), some of x masked: then z is a draw of p(z | x_obs). Of both latents, of
their product and of log p(x_obs | z) there are

- the rank of the truth among a sampler's draws, which is uniform: simulation-based calibration
  (Talts et al. 2018);
- the ranks of the sampler's draws among exact draws of p(z | x_obs), which the oracles have: each
  is uniform too.

The second say the more: a record has one truth and a hundred draws. The fraction of 200 simulated
runs in which `judge` sees a posterior that is too narrow by 10 %, or off by 0.1 standard
deviations, at 1e-6 (99 independent draws; `python -m tests.calibration --power`):

| records | too narrow: ranks, all | off: ranks, all | right: ranks, all |
| --- | --- | --- | --- |
| 200 | 0.000, 1.000 | 0.000, 1.000 | 0.000, 0.000 |
| 400 | 0.000, 1.000 | 0.000, 1.000 | 0.000, 0.000 |
| 1000 | 0.015, 1.000 | 0.010, 1.000 | 0.000, 0.000 |
| 4000 | 0.940, 1.000 | 0.510, 1.000 | 0.000, 0.000 |
"""

import argparse
import itertools
from typing import NamedTuple

import numpy as np

from tests import kernels, oracles
from vaefill.model import samplers
from vaefill.model.config import SamplerConfig
from vaefill.model.engine.slots import Finished, Records, Slots
from vaefill.model.samplers import SAMPLERS
from vaefill.model.vae import VAE

FALSE_ALARM = 1e-6  # of `judge`, a quantity
NUM_DRAWS = NUM_EXACT = 99  # of a record: the sampler's, and exact ones
QUANTITIES = ("z_1", "z_2", "z_1 z_2", "log-likelihood")
# Where defaults are not for it
SETTINGS = {"annealed_smc": {"num_particles": 128}, "ac_mwg": {"num_warmup": 200}}
NARROW, OFF = {"width": 0.9}, {"shift": 0.1}
MODELS = ("normal", "valley", "masks")


class Problem(NamedTuple):
    """N records of which everything is known."""

    vae: VAE
    records: Records
    # [N, M, Q] quantities at independent draws of p(z | x_obs), the first the truth
    exact: np.ndarray


def quantities(z: np.ndarray, log_likelihood: np.ndarray) -> np.ndarray:
    """z [..., 2] and log p(x_obs | z) [...] -> [..., Q]."""
    return np.stack([z[..., 0], z[..., 1], z[..., 0] * z[..., 1], log_likelihood], axis=-1)


def make_problem(model: str, num_records: int, seed: int = 0) -> Problem:
    """Draws records.

    Args:
        model: `normal`, a linear-Gaussian VAE with a wrong encoder and half of the values missing
            at random; `valley`, with two modes in most records, pixels 0 and 1 observed; `masks`,
            the same model with half of the values missing at random.
    """
    oracle = (
        oracles.LinearGaussian(shift=0.5, width=1.4)
        if model == "normal"
        else kernels.plane("valley")
    )
    rng, num_values = np.random.default_rng(seed), oracle.num_values
    z = rng.normal(size=(num_records, 2))
    nothing = np.zeros(num_values, bool)
    x = oracle.draw_missing(z, np.zeros(num_values), nothing, rng)
    observed = rng.random(x.shape) < 0.5
    if model == "valley":
        observed[:] = np.arange(num_values) < 2
    exact = []
    for truth, values, known in zip(z, x, observed):
        every_z = np.concatenate(
            [truth[np.newaxis], oracle.draw_latents(values, known, NUM_EXACT - 1, rng)]
        )
        exact.append(
            quantities(every_z, oracle.log_likelihood(every_z, values[np.newaxis], known)[:, 0])
        )
    keys = np.stack([np.arange(num_records), np.full(num_records, 17)], axis=1).astype(np.uint32)
    return Problem(
        oracle.vae,
        Records(keys, np.where(observed, x, 0).astype(np.float32), observed),
        np.array(exact),
    )


def _thinned(finished: Finished, rng: np.random.Generator) -> np.ndarray:
    """Quantities at draws: evenly over chains and sweeps, or resampled by weight: [L, Q]."""
    trace = finished.trace
    values = quantities(trace.z, trace.log_likelihood).reshape(-1, len(QUANTITIES))
    log_weight = trace.log_weight.ravel().astype(np.float64)
    if (log_weight == log_weight[0]).all():
        return values[np.linspace(0, len(values) - 1, NUM_DRAWS).astype(int)]
    weights = np.exp(log_weight - log_weight.max())
    return values[rng.choice(len(values), NUM_DRAWS, p=weights / weights.sum())]


def draw(problem: Problem, config: SamplerConfig) -> tuple[np.ndarray, np.ndarray]:
    """What a sampler makes of every record: quantities [N, L, Q] at its draws, and whether it
    converged [N].
    """
    rng, slots = (
        np.random.default_rng(1),
        Slots(
            problem.vae,
            samplers.build(problem.vae, config),
            config,
        ),
    )
    draws = np.empty((len(problem.exact), NUM_DRAWS, len(QUANTITIES)))
    converged = np.empty(len(draws), bool)
    for finished in itertools.chain.from_iterable(slots.run(problem.records)):
        draws[finished.index] = _thinned(finished, rng)
        converged[finished.index] = finished.verdict.converged
    return draws, converged


def distorted(draws: np.ndarray, width: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Draws [N, L, ...] less spread around their mean, and moved by a share of their standard
    deviation.
    """
    mean, stddev = draws.mean(axis=1, keepdims=True), draws.std(axis=1, keepdims=True)
    return mean + width * (draws - mean) + shift * stddev


def ranks(values: np.ndarray, among: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of values [N, n] among others [N, m] of their record, ties broken at random: [N, n] in
    0..m.
    """
    among = np.sort(among, axis=1)
    low, high = (
        np.array([np.searchsorted(row, each, side) for row, each in zip(among, values)])
        for side in ("left", "right")
    )
    return rng.integers(low, high + 1)


class Judgement(NamedTuple):
    """Of one quantity."""

    ranks: oracles.Uniformity  # of the truth among the draws
    scores: oracles.Scores  # of the draws among exact draws

    @property
    def right(self) -> bool:
        """Whether nothing is seen to be wrong."""
        return self.ranks.uniform and self.scores.right


def judge(
    draws: np.ndarray, exact: np.ndarray, false_alarm: float = FALSE_ALARM, seed: int = 2
) -> Judgement:
    """Judges draws [N, L] of one quantity by exact draws [N, M] of the same records, the first the
    truth.
    """
    rng = np.random.default_rng(seed)
    of_truth = ranks(exact[:, :1], draws, rng)[:, 0]
    uniformity = oracles.sbc_uniform(
        of_truth, draws.shape[1] + 1, 20 if len(draws) >= 400 else 10, false_alarm / 2
    )
    return Judgement(
        uniformity,
        oracles.rank_scores(ranks(draws, exact, rng), exact.shape[1] + 1, false_alarm / 2),
    )


def judgements(draws: np.ndarray, exact: np.ndarray, **distortion: float) -> list[Judgement]:
    """Of every quantity, of draws that are distorted first if so wished."""
    draws = distorted(draws, **distortion) if distortion else draws
    return [judge(*each) for each in zip(np.moveaxis(draws, 2, 0), np.moveaxis(exact, 2, 0))]


def power(
    num_records: int,
    num_draws: int = NUM_DRAWS,
    num_runs: int = 200,
    width: float = 1.0,
    shift: float = 0.0,
) -> tuple[float, float]:
    """The fractions of simulated runs that the ranks of the truths see, and that `judge` sees.

    Normal draws of standard deviation `width` and mean `shift`, where both should be standard.
    """
    rng, seen = np.random.default_rng(3), []
    for run in range(num_runs):
        exact = rng.normal(size=(num_records, NUM_EXACT))
        found = judge(shift + width * rng.normal(size=(num_records, num_draws)), exact, seed=run)
        seen.append((not found.ranks.uniform, not found.right))
    return tuple(np.mean(seen, axis=0))


def print_power(sizes: tuple[int, ...], num_runs: int) -> None:
    """Prints a table over numbers of records."""
    print(
        "| records | too narrow by 10 %: ranks, all | off by 0.1: ranks, all "
        "| right: ranks, all |\n"
        f"{'| --- ' * 4}|"
    )
    for size in sizes:
        narrow, off, right = (power(size, num_runs=num_runs, **each) for each in (NARROW, OFF, {}))
        print(
            f"| {size} | {narrow[0]:.3f}, {narrow[1]:.3f} | "
            f"{off[0]:.3f}, {off[1]:.3f} | {right[1]:.3f} |",
            flush=True,
        )


def print_calibration(model: str, problem: Problem, config: SamplerConfig) -> bool:
    """Prints a line a quantity; whether all are right."""
    draws, converged = draw(problem, config)
    found = judgements(draws, problem.exact)
    for name, each in zip(QUANTITIES, found):
        uniformity, scores = each
        print(
            f"| {model} | {config.name} | {converged.mean():.3f} | {name} "
            f"| {uniformity.p_value:.2g} | {uniformity.distance:.4f} of {uniformity.bound:.4f} "
            f"| {scores.location:+.4f} | {scores.p_values[0]:.2g} | {scores.width:.4f} "
            f"| {scores.p_values[1]:.2g} "
            f"| {'PASS' if each.right else 'FAIL'} |",
            flush=True,
        )
    return all(each.right for each in found)


def main() -> None:
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--power", action="store_true", help="what would be seen, by simulation, and nothing else"
    )
    parser.add_argument("--runs", type=int, default=200, help="simulated, with --power")
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--sampler", nargs="+", choices=[*SAMPLERS], default=["latent_hmc"])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=[*MODELS])
    arguments = parser.parse_args()
    if arguments.power:
        return print_power((200, 400, 1000, 4000), arguments.runs)
    print(
        f"{arguments.records} records, {NUM_DRAWS} draws; "
        f"PASS fails by chance once in {1 / FALSE_ALARM:,.0f} lines"
    )
    titles = (
        "model",
        "sampler",
        "converged",
        "quantity",
        "chi-square p",
        "distance",
        "bias, sd",
        "p",
        "width",
        "p",
        "",
    )
    print(f"| {' | '.join(titles)} | |\n{'| --- ' * len(titles)}| --- |")
    for model in arguments.model:
        problem = make_problem(model, arguments.records)
        for name in arguments.sampler:
            config = samplers.sampler_config(name, slots=1024, **SETTINGS.get(name, {}))
            print_calibration(model, problem, config)


if __name__ == "__main__":
    main()
