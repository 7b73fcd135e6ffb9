"""Accumulators: merging is addition, and the whole equals numpy."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vaefill.model import evaluation
from vaefill.records.record import DIAGNOSTICS, ImputedRecord, MaskedRecord
from vaefill.summary import statistics

SHAPE = (2, 3, 1)
# Other sums are int64
REALS = {"nll", "brier", "reliability_mean", "value_mean", "value_second_moment"}


def make_records(num: int, label=lambda i: i % 3):
    generator = np.random.default_rng(0)
    records = []
    for i in range(num):
        observed = generator.random(SHAPE) < 0.5
        mean = generator.random(SHAPE, dtype=np.float32)
        truth = (generator.random(SHAPE) < mean).astype(np.uint8) * 255
        diagnostics = {name: dtype(i) for name, dtype in DIAGNOSTICS.items()} | {
            "converged": np.bool_(i % 2)
        }
        masked = MaskedRecord(b"%d" % i, truth, observed, truth, {"label": label(i)})
        records.append(ImputedRecord(masked, np.stack([truth]), mean, mean / 2, diagnostics))
    return records


def scores_of(records, score=evaluation.score) -> evaluation.Scores:
    def stack(values):
        return np.stack([value.ravel() for value in values])

    return score(
        stack([r.mean for r in records]),
        stack([r.masked.truth / 255 for r in records]),
        stack([~r.masked.observed for r in records]),
    )


def accumulate(records) -> statistics.Accumulator:
    return statistics.of(records, scores_of(records), num_chains=4)


def assert_close(first, second):
    for a, b in zip((*first[:-1], *first.scores), (*second[:-1], *second.scores)):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_empty_is_neutral():
    whole = accumulate(make_records(7))
    assert_close(statistics.merge(statistics.empty(6), whole), whole)
    assert_close(statistics.merge(whole, statistics.empty(6)), whole)


RECORDS = make_records(30)


@given(st.lists(st.integers(1, 29), max_size=6).map(sorted), st.permutations(range(30)))
def test_parts_merged_in_any_grouping_are_the_whole(cuts, order):
    """Of records in any order, cut into any parts, merged from the left, from the right, or in a
    tree.
    """
    bounds = [0, *cuts, 30]
    parts = [
        accumulate([RECORDS[i] for i in order[begin:end]]) if end > begin else statistics.empty(6)
        for begin, end in zip(bounds, bounds[1:])
    ]
    from_left = functools.reduce(statistics.merge, parts)
    from_right = functools.reduce(
        lambda whole, part: statistics.merge(part, whole), reversed(parts)
    )
    half = len(parts) // 2
    tree = functools.reduce(statistics.merge, parts[half:])
    if half:
        tree = statistics.merge(functools.reduce(statistics.merge, parts[:half]), tree)
    for merged in (from_left, from_right, tree):
        assert_close(merged, accumulate(RECORDS))


@given(
    arrays(np.float32, (5, *SHAPE), elements=st.floats(0, 1, width=32)),
    arrays(np.bool_, (5, *SHAPE)),
)
def test_means_are_those_of_numpy(means, observed):
    changed = [
        dataclasses.replace(
            record, mean=mean, masked=dataclasses.replace(record.masked, observed=mask)
        )
        for record, mean, mask in zip(RECORDS, means, observed)
    ]
    parts = (accumulate(changed[:2]), accumulate(changed[2:]))
    found = statistics.imputed_values(statistics.merge(*parts), SHAPE)
    for place in np.ndindex(SHAPE):
        chosen = means[:, *place][~observed[:, *place]].astype(np.float64)
        value = found.mean[place]
        assert np.isnan(value) if not len(chosen) else value == pytest.approx(chosen.mean(), 1e-6)


def test_the_result_is_what_numpy_says():
    records = make_records(40)
    result = statistics.result(accumulate(records), SHAPE, True)
    imputed = statistics.imputed_values(accumulate(records), SHAPE)
    missing = np.stack([~r.masked.observed for r in records])
    mean, truth = (
        np.stack([r.mean for r in records]),
        np.stack([r.masked.truth / 255 for r in records]),
    )
    assert result.num_records == 40
    assert result.num_chain_sweeps == 4 * sum(range(40))
    assert result.converged_fraction == 0.5
    assert result.missing_fraction.mean == pytest.approx(missing.mean())
    assert sum(result.missing_fraction.counts) == 40
    at = (0, 1, 0)
    chosen = mean[:, *at][missing[:, *at]].astype(np.float64)
    assert imputed.mean[at] == pytest.approx(chosen.mean(), 1e-6)
    expected = np.sqrt(np.mean((chosen / 2) ** 2 + chosen**2) - chosen.mean() ** 2)
    assert imputed.stddev[at] == pytest.approx(expected, 1e-6)
    p, t = mean[missing].astype(np.float64), truth[missing]
    assert result.truth.nll == pytest.approx(-np.mean(np.log(np.where(t == 1, p, 1 - p))))
    assert result.truth.brier == pytest.approx(np.mean((p - t) ** 2))
    predicted = p > 0.5
    precision, recall = (t[predicted] == 1).mean(), predicted[t == 1].mean()
    assert result.truth.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    reliability = result.truth.reliability
    in_third = (p >= 0.3) & (p < 0.4)
    assert reliability.counts[3] == in_third.sum()
    assert reliability.predicted[3] == pytest.approx(p[in_third].mean())
    assert reliability.frequency[3] == pytest.approx(t[in_third].mean())


def test_grey_and_real_values_have_the_squared_error_alone():
    records = make_records(12)
    scores = scores_of(records, evaluation.score_real)
    parts = [
        statistics.of(records[chosen], evaluation.Scores(*(field[chosen] for field in scores)), 4)
        for chosen in (slice(0, 3), slice(3, 8), slice(8, 12))
    ]
    left = statistics.merge(statistics.merge(*parts[:2]), parts[2])
    assert_close(left, statistics.merge(parts[0], statistics.merge(*parts[1:])))
    truth = statistics.result(statistics.merge(statistics.empty(6), left), SHAPE, False).truth
    missing = np.stack([~r.masked.observed for r in records])
    error = np.stack([r.mean - r.masked.truth / 255 for r in records])[missing]
    assert truth.brier == pytest.approx(np.mean(error**2))
    assert truth.nll is None and truth.f1 is None and truth.reliability is None
    row = statistics.row(records[1], scores, 1, False)
    assert row["nll"] is None and row["f1"] is None
    assert row["brier"] == pytest.approx(scores.brier[1] / scores.num_values[1])


def test_nothing_missing_and_no_truth_give_null():
    result = statistics.result(statistics.empty(6), SHAPE, True)
    assert result.truth is None and result.converged_fraction is None
    assert np.isnan(statistics.imputed_values(statistics.empty(6), SHAPE)).all()


def test_groups_are_labels():
    records = make_records(9)
    groups = statistics.by_group(records, scores_of(records), 4)
    assert set(groups) == {None, "0", "1", "2"}
    assert_close(groups["1"], accumulate(records[1::3]))
    merged = dict(groups)
    statistics.add_groups(merged, statistics.by_group(records, scores_of(records), 4))
    assert merged["1"].num_records == 6 and merged[None].num_records == 18


def test_records_without_a_label_have_no_group():
    records = make_records(4, label=lambda i: None)
    assert set(statistics.by_group(records, scores_of(records), 4)) == {None}


def test_labels_with_the_most_records_are_kept_and_of_as_many_the_first_by_name():
    counts = {"d": 2, None: 20, "c": 2, "a": 1, "b": 9, "e": 6}
    assert statistics.most_common(counts, 3) == {None, "b", "c", "e"}
    assert statistics.most_common(dict(reversed(counts.items())), 3) == {None, "b", "c", "e"}
    assert statistics.most_common({None: 4, "a": 4}, 3) == {None, "a"}


@pytest.mark.parametrize("score", [evaluation.score, evaluation.score_real])
def test_every_sum_has_one_dtype(score):
    records = make_records(3)
    own = statistics.of(records, scores_of(records, score), num_chains=4)
    accumulators = (
        statistics.empty(6),
        own,
        statistics.merge(statistics.empty(6), own),
        statistics.merge(own, own),
    )
    for accumulator in accumulators:
        sums = accumulator._asdict() | evaluation.Scores(*accumulator.scores)._asdict()
        del sums["scores"]
        assert {name for name, field in sums.items() if field.dtype == np.float64} == REALS
        assert {name for name, field in sums.items() if field.dtype == np.int64} == set(
            sums
        ) - REALS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("binary", [True, False])
def test_a_record_of_no_finite_numbers_is_counted_and_voids_nothing(value, binary):
    score = evaluation.score if binary else evaluation.score_real
    records = make_records(12)
    broken = make_records(13)[12]
    broken.mean[~broken.masked.observed] = value
    good = statistics.of(records, scores_of(records, score), 4)
    without = statistics.result(good, SHAPE, binary)
    scores = scores_of([*records, broken], score)
    accumulator = statistics.of([*records, broken], scores, 4)
    found = statistics.result(accumulator, SHAPE, binary)
    assert found.num_records == 13 and found.num_left_out == 1 and without.num_left_out == 0
    assert found.truth == without.truth.model_copy(update={"num_unscored": 1})
    assert (found.truth.reliability is not None) == (found.truth.nll is not None) == binary
    np.testing.assert_array_equal(
        statistics.imputed_values(accumulator, SHAPE), statistics.imputed_values(good, SHAPE)
    )
    row = statistics.row(broken, scores, 12, binary)
    assert row["id"] == b"12" and row["nll"] is None and row["brier"] is None and row["f1"] is None
    alone = statistics.result(statistics.of([broken], scores_of([broken], score), 4), SHAPE, binary)
    assert alone.truth.num_unscored == 1 and alone.truth.num_values == 0
    assert alone.truth.nll is None and alone.truth.brier is None
    assert (alone.truth.reliability is not None) == binary


def test_a_stddev_that_is_no_number_voids_no_values():
    records = make_records(12)
    records[11].stddev[~records[11].masked.observed] = np.nan
    found = statistics.result(accumulate(records), SHAPE, True)
    assert found.num_left_out == 1 and found.truth.num_unscored == 0
    np.testing.assert_array_equal(
        statistics.imputed_values(accumulate(records), SHAPE),
        statistics.imputed_values(accumulate(records[:11]), SHAPE),
    )


def test_rows_and_quantiles():
    records = make_records(3)
    scores = scores_of(records)
    row = statistics.row(records[1], scores, 1, True)
    assert row["id"] == b"1" and row["label"] == 1 and row["num_sweeps"] == 1
    assert row["nll"] == pytest.approx(scores.nll[1] / scores.num_values[1])
    found = statistics.quantiles([1.0, 2.0, 3.0, np.nan])
    assert found.at("0.5") == 2.0 and found.num_nan == 1
    assert statistics.quantiles([]).at("0.5") is None
    infinite = statistics.quantiles([1.0, 2.0, 3.0, np.inf])
    assert infinite.at("0.5") == 2.0 and infinite.at("0.99") is None


@pytest.mark.parametrize(
    ("label", "group"),
    [(3, "3"), (b"cat", "cat"), (b"\xff", "\\xff"), (None, None), (-1, "-1"), (float("nan"), None)],
)
def test_names_of_groups(label, group):
    assert statistics.group_name(label) == group
