"""What is timed is what a job runs; the clock itself is not tested."""

import numpy as np
import pytest

from vaefill.experiments import throughput
from vaefill.model import samplers, vae
from vaefill.model.config import ModelConfig

pytestmark = pytest.mark.slow


def test_the_limit_in_bfloat16():
    assert throughput.tensorflow_products([(5, 7)], rows=4)() == [5.0]


def test_programs_run_in_turn_after_a_run_that_does_not_count():
    order = []
    seconds = throughput.in_turn(
        {name: lambda name=name: order.append(name) for name in "ab"}, num_rounds=3
    )
    assert "".join(order) == "abababab"
    assert {name: values.shape for name, values in seconds.items()} == {"a": (3,), "b": (3,)}
    assert all((values >= 0).all() for values in seconds.values())


@pytest.mark.parametrize("name", ["pseudo_gibbs", "latent_hmc"])
def test_a_block_of_sweeps_runs_in_all_slots_of_every_lane(name):
    model = vae.build(ModelConfig(latent_size=3, hidden=(8,)), (2, 2, 1))
    config = samplers.sampler_config(name, num_start=1, num_warmup=6, slots=32, num_chains=2)
    run = throughput.sweeps_of(model, config, num_lanes=2)
    (first, other), again = run(), run()
    assert first.shape == (10, 32) and np.isfinite(first).all()
    np.testing.assert_array_equal([first, other], again)  # from the same chains
    np.testing.assert_array_equal(first, other)  # whose lanes are alike
    assert (first[0] != first[1]).any()


def test_training_images_a_second():
    limit, rate = throughput.training_rate(num_rounds=1, batch_size=8, num_steps=20)
    assert limit.of_limit == 1 and limit.per_second > 0
    assert np.isfinite([rate.per_second, rate.of_limit]).all()
