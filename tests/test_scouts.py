"""Scouts: they climb, they find the modes that are there, and what they find keeps false
convergence rare.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import false_convergence, kernels, oracles
from vaefill.model.samplers import scouts

pytestmark = pytest.mark.slow

NUM_ROWS, NUM_ROUNDS = 64, 8


@pytest.mark.parametrize("variant, num_peaks", [("easy", 1), ("valley", 2)])
def test_they_end_at_the_peaks(variant, num_peaks):
    """Nearly all within 0.6 of a peak of the density on the nodes of the quadrature, each peak in
    reach of many.
    """
    oracle = kernels.plane(variant)
    rows = kernels.rows_of(oracle.x, oracle.observed, NUM_ROWS, 1)
    factor = tf.eye(2, batch_shape=[NUM_ROWS]) * 0.4
    found = kernels.program(
        lambda: scouts.explore(oracle.vae, rows, range(1000), factor, NUM_ROUNDS)
    )()
    z = found.z.numpy().reshape(-1, 2)
    peaks = peaks_of(oracle)
    distance = np.linalg.norm(z[:, np.newaxis] - peaks, axis=2)
    assert len(peaks) == num_peaks and len(np.unique(z, axis=0)) > 0.9 * len(z)
    assert (distance.min(axis=1) < 0.6).mean() > 0.9
    assert np.bincount(distance.argmin(axis=1)).min() > 0.1 * len(z)
    at_z = oracle.log_likelihood(z, oracle.x[np.newaxis], oracle.observed)[:, 0] - 0.5 * np.square(
        z
    ).sum(axis=1)
    np.testing.assert_allclose(found.log_target.numpy().ravel(), at_z, atol=1e-3)


def peaks_of(oracle: oracles.PlaneBernoulli) -> np.ndarray:
    """Nodes of the quadrature where p(z | x_obs) is larger than at all their neighbours: [n, 2]."""
    nodes, posterior = oracle.latent_posterior(oracle.x, oracle.observed)
    size = int(np.sqrt(len(nodes)))
    grid = np.pad(posterior.reshape(size, size), 1)
    around = [
        np.roll(grid, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)
    ]
    highest = (grid > np.max(around, axis=0))[1:-1, 1:-1].ravel()
    return nodes[highest & (posterior > 1e-6)]


@pytest.mark.parametrize(
    "num_scouts, most, least", [(32, 0.02, 0.0), (0, 1.0, 0.5)], ids=["scouts", "none"]
)
def test_of_records_that_have_converged_few_are_wrong_but_for_scouts(num_scouts, most, least):
    """Two and three modes so far apart that no chain crosses: of 128 records some look converged in
    one of them.

    With scouts none does; those of two modes that chains do cross converge still, and are right.
    """
    trial = false_convergence.Trial(8, 64, num_scouts=num_scouts, max_sweeps=600)
    far = false_convergence.mixtures(8, [10.0])[:2]
    # One that chains do cross still converges
    near = false_convergence.mixtures(8, [2.5])[:1] if num_scouts else []
    found = sum(map(trial, far + near), false_convergence.Count(0, 0, 0))
    assert found.converged > (32 if near else 4), found
    assert least <= found.wrong / found.converged <= most, found
