"""Lines of progress say what was done, at most one in so many seconds."""

import logging

from vaefill.progress import Progress


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_lines_keep_their_distance_and_count_all_there_was(caplog):
    clock = Clock()
    progress = Progress(10.0, clock)
    progress.start()
    steps = [(2.0, 4, 1), (3.0, 1000, 500), (6.9, 10, 9), (0.1, 2, 2), (9.0, 1, 1), (60.0, 1, 1)]
    with caplog.at_level(logging.INFO, "vaefill.impute"):
        for seconds, num, num_converged in steps:
            clock.now += seconds
            progress.start()  # again, by the next batch
            progress.add(num, num_converged)
    assert [record.getMessage() for record in caplog.records] == [
        "imputed 4 records, 25.0 % of them converged, 2.0 a second",
        "imputed 1,016 records, 50.4 % of them converged, 84.7 a second",
        "imputed 1,018 records, 50.5 % of them converged, 12.6 a second",
    ]
    last = caplog.records[-1]
    assert (last.records, last.converged_fraction) == (1018, 514 / 1018)
    assert last.records_per_second == 1018 / 81


def test_of_nothing_there_is_no_line(caplog):
    progress = Progress(clock=Clock())
    progress.start()
    with caplog.at_level(logging.INFO, "vaefill.impute"):
        progress.add(0, 0)
    assert not caplog.records
