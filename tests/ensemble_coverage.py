"""Whether intervals hold the truth as often as they say, from one fitted model and from ensembles:
`python -m tests.ensemble_coverage` prints it.

Records of four values, x = w z + mean + noise with one latent z. A model is fitted to few complete
records, by maximum likelihood in closed form (probabilistic PCA, Tipping & Bishop 1999); the last
value is missing from many new records; the mean of that value is estimated from completed records,
with an interval by Rubin's rules (`vaefill.pool`). Imputations are exact draws of p(x_mis | x_obs),
and so is the truth known: what is missing from an interval is what imputations leave out.

With `--networks` all of it is done by the package, `vaefill.train` and `vaefill.impute`, which
takes minutes a table; less can then be said of how often, but how wide intervals are.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import vaefill
from vaefill.model.ensemble_imputer import draws_of_members
from vaefill.report.text import markdown_table

LEVEL = 0.9
NUM_TRAINING, NUM_NEW = 40, 400
WEIGHTS, NOISE = (
    np.array([1.0, 0.8, 0.6, 1.0]),
    0.6,
)  # of z, and a standard deviation; the mean is 0


class Fit(NamedTuple):
    """A normal distribution: mean [4] and covariance [4, 4]."""

    mean: np.ndarray
    covariance: np.ndarray


class Coverage(NamedTuple):
    """Of intervals over many tables."""

    share: float  # that hold the truth
    width: float  # in the mean


# Records, what is completed of them: [N, 4] with NaN -> imputations of the last value [N, J]
Impute = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def draw(num: int, rng: np.random.Generator) -> np.ndarray:
    """Records [num, 4] of the true model."""
    noise = NOISE * rng.normal(size=(num, len(WEIGHTS)))
    return rng.normal(size=(num, 1)) * WEIGHTS + noise


def fit(x: np.ndarray) -> Fit:
    """Maximum likelihood, with one latent."""
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = values[:-1].mean()
    covariance = noise * np.eye(len(values))
    covariance += (values[-1] - noise) * np.outer(vectors[:, -1], vectors[:, -1])
    return Fit(x.mean(axis=0), covariance)


def impute(model: Fit, x: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draws [N, num] of the last value given the others."""
    of_others = np.linalg.solve(model.covariance[:-1, :-1], model.covariance[:-1, -1])
    mean = model.mean[-1] + (x[:, :-1] - model.mean[:-1]) @ of_others
    variance = model.covariance[-1, -1] - of_others @ model.covariance[:-1, -1]
    return mean[:, np.newaxis] + np.sqrt(variance) * rng.normal(size=(len(x), num))


def impute_by_all(
    models: Sequence[Fit], x: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws [N, num], the j-th of model j mod M."""
    drawn = np.empty((len(x), num))
    for number, share in enumerate(draws_of_members(num, len(models))):
        drawn[:, number :: len(models)] = impute(models[number], x, share, rng)
    return drawn


def interval(imputations: np.ndarray) -> tuple[float, float]:
    """Of the mean of values, by imputations [N, J] of them."""
    num = len(imputations)
    variances = imputations.var(axis=0, ddof=1) / num
    low, high = vaefill.pool(imputations.mean(axis=0), variances, num - 1).interval(LEVEL)
    return float(low), float(high)


def intervals(seed: int, num_members: int, num_imputations: int) -> list[tuple[float, float]]:
    """Of one table: from one model; from an ensemble; from the same, with the imputations of every
    record in an order of its own.
    """
    rng = np.random.default_rng(seed)
    training, new = draw(NUM_TRAINING, rng), draw(NUM_NEW, rng)
    resamples = rng.integers(0, NUM_TRAINING, (num_members, NUM_TRAINING))
    in_turn = impute_by_all([fit(training[each]) for each in resamples], new, num_imputations, rng)
    return [
        interval(impute(fit(training), new, num_imputations, rng)),
        interval(in_turn),
        interval(rng.permuted(in_turn, axis=1)),
    ]


def coverage(num_tables: int, num_members: int, num_imputations: int) -> list[Coverage]:
    """Of the intervals that `intervals` has, over many tables."""
    ends = np.array(
        [intervals(seed, num_members, num_imputations) for seed in range(num_tables)]
    )  # [tables, 3, 2]
    held = (ends[..., 0] <= 0) & (ends[..., 1] >= 0)
    widths = ends[..., 1] - ends[..., 0]
    return [Coverage(*each) for each in zip(held.mean(axis=0), widths.mean(axis=0))]


def intervals_by_networks(seed: int, num_members: int) -> list[tuple[float, float]]:
    """Of one table: from one VAE, and from an ensemble of them."""
    rng = np.random.default_rng(seed)
    training, new = (
        draw(num, rng).astype(np.float32)[:, np.newaxis, :, np.newaxis]
        for num in (NUM_TRAINING * 5 // 4, NUM_NEW)
    )
    observed = np.broadcast_to(np.arange(4) < 3, (NUM_NEW, 4)).reshape(new.shape)
    sampler = vaefill.sampler_config(num_imputations=num_members, num_evidence_draws=0)
    found = []
    for num in (1, num_members):
        settings = {
            "seed": seed,
            "train.num_members": num,
            "model.latent_size": 1,
            "model.hidden": [16],
            "train.batch_size": 8,
            "train.epochs": 200,
            "train.evaluate_every": 2,
            "train.num_calibration": 0,
            "train.num_test_importance_samples": 10,
        }
        with tempfile.TemporaryDirectory() as directory:
            model = vaefill.train(directory, training, settings=settings, progress=False)
        result = vaefill.impute(model, new, observed, sampler=sampler, seed=seed, progress=False)
        found.append(interval(result.imputations[:, :, 0, 3, 0]))
    return found


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=4000, help="that are drawn")
    parser.add_argument("--members", type=int, default=5, help="of an ensemble")
    parser.add_argument("--imputations", type=int, help="of a record  [default: one a member]")
    parser.add_argument(
        "--networks", type=int, default=0, help="tables for the package, and no more"
    )
    arguments = parser.parse_args()
    members = arguments.members
    if arguments.networks:
        for seed in range(arguments.networks):
            for low, high in intervals_by_networks(seed, members):
                print(f"{low:+.3f} to {high:+.3f}: {high - low:.3f}", flush=True)
        return
    num = arguments.imputations or members
    names = ("one model", f"ensemble of {members}", "the same, in an order by chance")
    rows = [
        [name, f"{100 * each.share:.1f} %", f"{each.width:.3f}"]
        for name, each in zip(names, coverage(arguments.tables, members, num))
    ]
    titles = [f"{num} imputations from", "hold the truth", "width"]
    print("\n".join(markdown_table(titles, rows)))


if __name__ == "__main__":
    main()
