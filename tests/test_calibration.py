"""Every sampler is calibrated, with the stopping rule and the targets that are shipped; see
`tests.calibration`.

Of 200 records all of 200 simulated runs tell draws that are too narrow by 10 %, or off by 0.1
standard deviations, whatever the quantity, and none tells right ones: `python -m tests.calibration
--power`.
"""

import numpy as np
import pytest

from tests import calibration
from vaefill.model import samplers
from vaefill.model.samplers import SAMPLERS

pytestmark = pytest.mark.slow

NUM_RECORDS = 200
SETTINGS = {
    "annealed_smc": {
        "num_particles": 64,
        "num_chains": 2,
        "num_warmup": 12,
        "max_sweeps": 40,
        "slots": 4096,
    },
}


@pytest.fixture(scope="module")
def problem() -> calibration.Problem:
    return calibration.make_problem("normal", NUM_RECORDS)


@pytest.fixture(scope="module", params=SAMPLERS)
def drawn(request, problem) -> tuple[str, np.ndarray]:
    """A sampler's name and its draws [N, L, Q]."""
    config = samplers.sampler_config(
        name=request.param,
        **{"slots": 1024} | SETTINGS.get(request.param, {}),
    )
    draws, converged = calibration.draw(problem, config)
    # Which stops when its particles have arrived
    assert converged.mean() > 0.5 or request.param == "annealed_smc"
    return request.param, draws


def test_ranks_are_uniform_but_for_pseudo_gibbs(drawn, problem):
    """Four quantities, each with a false alarm in a million."""
    name, draws = drawn
    found = calibration.judgements(draws, problem.exact)
    assert all(each.right for each in found) == (name != "pseudo_gibbs"), found


@pytest.mark.parametrize("distortion", [calibration.NARROW, calibration.OFF], ids=["narrow", "off"])
def test_draws_a_little_wrong_are_seen_to_be(drawn, problem, distortion):
    name, draws = drawn
    found = calibration.judgements(draws, problem.exact, **distortion)
    assert name == "pseudo_gibbs" or not any(each.right for each in found), found


@pytest.mark.parametrize("distortion", [calibration.NARROW, calibration.OFF], ids=["narrow", "off"])
def test_power_is_as_stated(distortion):
    """20 simulated runs of the size above."""
    assert calibration.power(NUM_RECORDS, num_runs=20, **distortion)[1] == 1


def test_right_draws_are_seldom_seen_to_be_wrong():
    assert calibration.power(NUM_RECORDS, num_runs=20)[1] == 0
