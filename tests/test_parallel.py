"""Lanes hand over everything, stop together, and do not show in a result; a wait has an end."""

import itertools
import os
import threading
import time

import numpy as np
import pytest

from vaefill.model import imputer, parallel, samplers, vae
from vaefill.model.config import ModelConfig
from vaefill.model.preprocessing import Preprocessor

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        ("", {}, 6),
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, 6),
        ("0::/a/b", {"a/b/cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 2),
        ("0::/host/x", {"cpu.max": "10000 100000"}, 1),
        ("0::/", {"cpu.max": "9900000 100000"}, 6),
        ("3:memory:/a\n2:cpu,cpuacct:/a\n0::/", {"cpu/a/cpu": "300000 100000"}, 3),
        ("2:cpu:/host/x", {"cpu/cpu": "300000 100000"}, 3),
        ("2:cpu:/", {"cpu/cpu": "-1 100000"}, 6),
        ("2:cpu:/", {"cpu/cpu": "nonsense 0"}, 6),
        ("2:cpuset:/", {"cpu/cpu": "100000 100000"}, 6),
    ],
)
def test_cores_are_those_that_may_be_used(tmp_path, monkeypatch, groups, files, expected):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        if name.endswith("/cpu"):
            quota, period = content.split()
            path.with_name("cpu.cfs_quota_us").write_text(f"{quota}\n")
            path.with_name("cpu.cfs_period_us").write_text(f"{period}\n")
    (tmp_path / "groups").write_text(groups)
    monkeypatch.setattr(parallel, "_GROUPS", str(tmp_path / "groups"))
    monkeypatch.setattr(parallel, "_QUOTAS", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert parallel.cores() == expected


def test_everything_comes_and_of_each_in_its_order():
    made = list(parallel.side_by_side([iter(range(first, first + 50)) for first in (0, 100, 200)]))
    assert sorted(made) == [*range(50), *range(100, 150), *range(200, 250)]
    for first in (0, 100, 200):
        assert [each for each in made if first <= each < first + 50] == list(
            range(first, first + 50)
        )


def wait_until_lanes_end():
    for _ in range(100):
        if not any(thread.name.startswith("lane-") for thread in threading.enumerate()):
            return True
        time.sleep(0.05)
    return False


def test_an_error_ends_all_lanes():
    def fails():
        yield 0
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(parallel.side_by_side([fails(), itertools.count()]))
    assert wait_until_lanes_end()


def test_closing_ends_all_lanes():
    running = parallel.side_by_side([itertools.count(), itertools.count()])
    assert next(running) == 0
    running.close()
    assert wait_until_lanes_end()


def test_a_single_one_runs_in_this_thread():
    def thread():
        yield threading.current_thread()

    assert list(parallel.side_by_side([thread()])) == [threading.current_thread()]


def test_a_process_at_work_has_one_lane():
    np.testing.assert_array_equal(
        vae.build(ModelConfig(), (6, 5, 1)).decoder(np.zeros((1, 32))).shape, (1, 30)
    )
    parallel.share_cores()
    assert parallel.available() == 1


def test_the_same_bits_in_any_number_of_lanes():
    """Of 60 records 8 fit into the slots at once, so that lanes share what waits; they finish one
    by one.
    """
    model = vae.build(ModelConfig(latent_size=3, hidden=(16,)), (6, 5, 1), seed=1)
    settings = {
        "target_r_hat": 1.02,
        "target_ess": 40.0,
        "max_sweeps": 200,
        "num_start": 2,
        "num_warmup": 7,
    }
    config = samplers.sampler_config(
        name="pseudo_gibbs",
        num_chains=4,
        slots=32,
        num_evidence_draws=8,
        **settings,
    )
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 6, 5, 1), dtype=np.uint8)
    observed = generator.random(images.shape) < 0.5
    ids = [b"%d" % index for index in range(60)]
    one, three = (
        imputer.Imputer(model, config, Preprocessor(model.likelihood, seed=7), num_lanes=num_lanes)(
            images, observed, ids
        )
        for num_lanes in (1, 3)
    )
    assert len(set(one.num_sweeps)) > 3
    for name, first, second in zip(imputer.Imputed._fields, one, three):
        assert first.tobytes() == second.tobytes(), name


# A time limit for each step


def test_steps_come_in_order():
    assert list(parallel.with_timeout(iter(range(100)), 10.0)) == list(range(100))
    assert list(parallel.with_timeout(iter([]), 10.0)) == []


def test_an_error_is_the_consumers():
    def steps():
        yield 1
        raise KeyError("mine")

    found = parallel.with_timeout(steps(), 10.0)
    assert next(found) == 1
    with pytest.raises(KeyError, match="mine"):
        next(found)


def test_a_step_that_takes_too_long_ends_the_wait():
    release = threading.Event()

    def steps():
        yield 1
        release.wait(60)

    found, began = parallel.with_timeout(steps(), 0.2), time.monotonic()
    assert next(found) == 1
    with pytest.raises(parallel.StuckError, match="no answer for 0.2 s"):
        next(found)
    assert time.monotonic() - began < 10
    release.set()


def test_who_stops_reading_leaves_no_thread_behind():
    before = threading.active_count()
    for _ in range(5):
        assert next(parallel.with_timeout(iter(range(1000)), 10.0)) == 0
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
