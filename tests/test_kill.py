"""Ten kills; `python -m tests.kill` does as many as one likes."""

import concurrent.futures

import pytest

from tests import kill

pytestmark = pytest.mark.slow


def test_a_job_that_is_killed_loses_nothing_and_goes_on(model_directory, masked_many, tmp_path):
    def five_kills(index: int) -> list[kill.Kill]:
        directory = tmp_path / str(index)
        directory.mkdir()
        return kill.run(kill.Killer(model_directory, masked_many, str(directory)), 5, seed=index)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = [each for kills in pool.map(five_kills, range(2)) for each in kills]
    assert len(found) == 10
    saved = [each for each in found if each.num_reused]
    assert saved and all(each.work < 1 for each in saved)
