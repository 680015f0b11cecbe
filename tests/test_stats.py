"""Statistics against small cases by hand: their values follow from counting, not from the code."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from marlzoo.benchmarks import stats
from marlzoo.benchmarks.drift import moving, value_drift


def mean(sample: np.ndarray, axis: int = -1) -> np.ndarray:
    return sample.mean(axis=axis)


# ---- interquartile mean --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], 5.0),
        ([1, 2, 30], 11.0),  # nothing to cut
        ([100, 1, 2, -50], 1.5),  # one at each end
        ([1, 2, 30, 4, 5], (2 + 4 + 5) / 3),
        ([8, 1, 2, 3, 4, 5, 6, 100], (3 + 4 + 5 + 6) / 4),
    ],
)
def test_interquartile_mean_cuts_a_quarter_at_each_end(values: list[float], expected: float) -> None:
    assert stats.iqm(values) == pytest.approx(expected)


def test_pooled_interquartile_mean_is_over_all_runs_together() -> None:
    # Of 0, 0, 0, 0, 8, 8, 8, 100 the middle half is 0, 0, 8, 8; the mean of the two samples' own would be 4 too, but
    # not of these: 0, 0, 8, 8 and 0, 0, 8, 100.
    assert stats.pooled_iqm(np.array([0.0, 0, 0, 0]), np.array([8.0, 8, 8, 100])) == 4.0


def test_every_sample_counts_alike_in_the_pooled_interquartile_mean() -> None:
    # Values of the first sample weigh 1/12, those of the second 1/4. A quarter of the weight is cut at each end:
    # 0, 1, 2 and 200. The order of the samples does not matter.
    uneven = (np.array([5.0, 1, 4, 3, 2, 0]), np.array([200.0, 100]))
    assert stats.pooled_iqm(*uneven) == pytest.approx(((3 + 4 + 5) / 12 + 100 / 4) / (2 / 4))
    assert stats.pooled_iqm(*uneven[::-1]) == pytest.approx(stats.pooled_iqm(*uneven))
    # The same mixture with three copies of the second sample's values.
    assert stats.pooled_iqm(uneven[0], np.repeat(uneven[1], 3)) == pytest.approx(stats.pooled_iqm(*uneven))
    # Of seven values one would be cut at each end: a seventh of the weight, here the 70 and a bit of the 7s.
    assert stats.pooled_iqm(np.array([0.0, 0, 3]), np.array([7.0, 7, 7, 70])) == pytest.approx(
        (3 * 1 / 6 + 7 * 5 / 14) / (5 / 7)
    )


def test_pooled_interquartile_mean_of_many_resamples_is_taken_along_its_axis() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 6)), rng.normal(size=(5, 3))
    single = [stats.pooled_iqm(first[k], second[k]) for k in range(5)]
    np.testing.assert_allclose(stats.pooled_iqm(first, second), single)
    np.testing.assert_allclose(stats.pooled_iqm(first.T, second.T, axis=0), single)


# ---- intervals -----------------------------------------------------------------------------------------


def test_bootstrap_interval_of_a_mean_by_counting() -> None:
    """Means of resampled (0, 0, 1) are k/3 with the chances of a binomial: 1 has 1/27 = 3.7 %, 0 has 30 %."""
    assert stats.interval([np.array([0.0, 0, 1])], mean) == (0.0, 1.0)
    # (1, 1, 1, 0): mean 0 has 1/256 and 1/4 has 12/256, which is where 2.5 % are passed; 1 has 32 %.
    assert stats.interval([np.array([1.0, 1, 1, 0])], mean) == (0.25, 1.0)


def test_an_interval_has_its_low_end_first_and_covers_the_middle_of_what_is_drawn() -> None:
    values = np.arange(20.0)
    low, high = stats.interval([values], mean)
    assert low < values.mean() < high
    spread = values.std() / math.sqrt(20)
    assert (low, high) == pytest.approx((9.5 - 1.96 * spread, 9.5 + 1.96 * spread), abs=0.15)
    again = stats.interval(
        [values], lambda sample, axis=-1: mean(sample, axis)
    )  # another function: drawn anew
    assert again == (low, high)


def test_an_interval_is_found_once_for_a_function_and_its_values() -> None:
    calls = []

    def counted(sample: np.ndarray, axis: int = -1) -> np.ndarray:
        calls.append(sample.shape)
        return mean(sample, axis)

    values = np.array([0.0, 1, 5, 9])
    found = stats.interval([values], counted)
    made = len(calls)
    assert stats.interval([values.astype(np.float32)], counted) == found == stats.interval([values], mean)
    assert len(calls) == made > 0
    assert stats.interval([values + 1], counted) != found
    assert stats.interval([values], np.max) != found


def test_intervals_are_stratified() -> None:
    # Each dataset's runs are equal, so resampling within it changes nothing.
    assert stats.interval([np.full(4, 0.0), np.full(4, 10.0)]) == (5.0, 5.0)


@pytest.mark.parametrize("sample", [[1.0], [1.0, 2.0], [1.0, 2.0, np.nan], [1.0, 2.0, np.inf], []])
def test_no_interval_of_few_or_broken_values(sample: list[float]) -> None:
    assert all(map(math.isnan, stats.interval([np.array(sample)], mean)))
    assert all(map(math.isnan, stats.interval([np.arange(5.0), np.array(sample)])))
    assert all(map(math.isnan, stats.interval([], mean)))


def test_difference_by_counting() -> None:
    """All 27 x 27 resamples of two samples of three, with their exact 2.5 % and 97.5 % points."""
    x, y = np.array([1.0, 5, 9]), np.array([0.0, 2, 4])
    means = [[np.mean(draw) for draw in product(sample, repeat=3)] for sample in (x, y)]
    every = np.sort([a - b for a in means[0] for b in means[1]])
    low, high = stats.difference(x, y)
    assert low == pytest.approx(np.quantile(every, 0.025, method="inverted_cdf"), abs=0.34)
    assert high == pytest.approx(np.quantile(every, 0.975, method="inverted_cdf"), abs=0.34)
    assert low < x.mean() - y.mean() < high
    assert stats.difference(y, x)[0] == pytest.approx(-high, abs=0.34)


# ---- ties ----------------------------------------------------------------------------------------------


def test_all_that_cannot_be_told_from_the_best() -> None:
    samples = {
        "best": np.array([10.0, 11, 12, 13]),
        "near": np.array([9.0, 10, 12, 13]),
        "spread": np.array([-50.0, 0, 12, 60]),
        "far": np.array([1.0, 2, 3, 4]),
        "broken": np.array([100.0, 100, 100, np.nan]),
        "lost": np.array([100.0, 100, 100, -np.inf]),
        "away": np.array([1.0, 2, 3, np.inf]),
    }
    assert stats.top(samples) == {"best", "near", "spread"}
    reversed_order = dict(reversed(samples.items()))
    assert stats.top(reversed_order) == {"best", "near", "spread"}


def test_differences_that_touch_zero_are_ties_and_others_are_not() -> None:
    constant = {"a": np.full(3, 2.0), "b": np.full(3, 2.0), "c": np.full(3, 1.9)}
    assert stats.top(constant) == {"a", "b"}


def test_two_seeds_tie_with_nothing() -> None:
    assert stats.top({"a": np.array([1.0, 9.0]), "b": np.array([1.0, 8.9]), "c": np.array([9.0, 1.0])}) == {
        "a",
        "c",
    }
    assert stats.top({"a": np.array([np.nan])}) == set()
    assert stats.top({}) == set()


# ---- probability of improvement ------------------------------------------------------------------------


def test_probability_of_improvement_by_counting() -> None:
    x, y = np.array([1.0, 3.0]), np.array([2.0, 3.0])
    assert stats.probability(x, y) == (0 + 0 + 1 + 0.5) / 4
    assert stats.probability(y, x) == (1 + 0 + 1 + 0.5) / 4
    assert stats.probability(x, y) + stats.probability(y, x) == 1
    # Not a number of wins over all pairs of all datasets, but the mean over datasets of different size.
    value, low, high = stats.improvement([(x, y), (np.full(5, 5.0), np.array([1.0]))])
    assert value == pytest.approx((0.375 + 1) / 2)
    assert math.isnan(low)
    assert math.isnan(high)
    value, low, high = stats.improvement([(np.array([0.0, 0, 1]), np.array([0.5, 0.5, 0.5]))])
    assert (value, low, high) == (pytest.approx(1 / 3), 0.0, 1.0)  # as the mean of (0, 0, 1) above


def test_a_return_that_is_not_finite_loses() -> None:
    assert stats.probability(np.array([-np.inf, 2.0]), np.array([1.0])) == 0.5


def test_a_run_without_a_return_loses_and_the_interval_stays() -> None:
    """Of five runs one without a return: each draw holds it k times of five, and so do the intervals' ends."""
    whole, lower = np.array([5.0, 6, 7, 8, 9]), np.array([1.0, 2, 3])
    for missing in (-np.inf, np.nan):
        broken = np.array([missing, 6.0, 7, 8, 9])
        assert stats.improvement([(broken, lower)]) == stats.improvement(
            [(np.array([0.0, 6, 7, 8, 9]), lower)]
        )
        assert stats.improvement([(lower, broken)])[0] == pytest.approx(0.2)
        assert stats.improvement([(broken, broken)])[0] == 0.5
    assert stats.improvement([(whole, lower)]) == (1.0, 1.0, 1.0)


# ---- ranks ---------------------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    a, b, c = np.full(3, 3.0), np.full(3, 2.0), np.full(3, 1.0)
    ranks = stats.mean_ranks([[a, b, c], [c, b, a]])
    assert ranks == [(2.0, 2.0, 2.0)] * 3
    assert [rank[0] for rank in stats.mean_ranks([[c, a, b]])] == [3.0, 1.0, 2.0]
    assert [rank[0] for rank in stats.mean_ranks([[a, a, c]])] == [1.5, 1.5, 3.0]
    assert [rank[0] for rank in stats.mean_ranks([[np.array([np.nan, 9, 9]), b, c]])] == [3.0, 1.0, 2.0]


def test_intervals_of_ranks() -> None:
    certain = stats.mean_ranks([[np.array([10.0, 11, 12]), np.array([1.0, 2, 3])]])
    assert certain == [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0)]
    # The mean of a resampled (0, 0, 1) is above 1/2 in 7 of 27 cases.
    open_race = stats.mean_ranks([[np.array([0.0, 0, 1]), np.full(3, 0.5)]])
    assert open_race == [(2.0, 1.0, 2.0), (1.0, 1.0, 2.0)]
    # Of ten draws from nine 0 and one 1 hardly ever six are 1.
    settled = stats.mean_ranks([[np.array([0.0] * 9 + [1.0]), np.full(3, 0.5)]])
    assert settled == [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0)]
    few = stats.mean_ranks([[np.array([1.0, 2]), np.array([3.0, 4, 5])]])
    assert [rank[0] for rank in few] == [2.0, 1.0]
    assert all(math.isnan(end) for rank in few for end in rank[1:])


# ---- performance profiles ------------------------------------------------------------------------------


def test_profiles_count_runs_that_reach_a_score() -> None:
    samples = [np.array([0.0, 50, 100]), np.array([50.0, 50, np.nan])]
    assert stats.profile(samples, 50.0)[0] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert stats.profile(samples, 51.0)[0] == pytest.approx((1 / 3 + 0) / 2)
    assert stats.profile(samples, -1e9)[0] == pytest.approx((1 + 2 / 3) / 2)
    share, low, high = stats.profile([np.array([0.0, 0, 100])], 50.0)
    assert (share, low, high) == (pytest.approx(1 / 3), 0.0, 1.0)  # as the mean of (0, 0, 1) above
    assert all(map(math.isnan, stats.profile([np.array([0.0, 100])], 50.0)[1:]))


# ---- whether values still move -------------------------------------------------------------------------


def drift(values: list[float] | np.ndarray, updates: list[float] | None = None) -> float | None:
    updates = list(range(1, len(values) + 1)) if updates is None else updates
    return value_drift(np.array(updates, float), np.array(values, float))


def test_drift_by_hand() -> None:
    assert drift([9, 9, 9, 9, 10, 10, 20, 20]) == pytest.approx((20 - 10) / 20)
    assert drift([9, 9, 9, -40, 10, 10, 20, 20]) == pytest.approx(
        (20 - 10) / 40
    )  # relative to the largest size
    assert drift([0, 0, 0, 0, -10, -10, -20, -20]) == pytest.approx(-0.5)
    assert drift([5.0] * 8) == 0.0
    assert drift([0.0] * 8) == 0.0
    # Quarters are of the updates, not of the points: 60 lies in the third and 80 in the last one.
    assert drift([1, 2, 3, 10, 20], [1, 2, 60, 80, 100]) == pytest.approx((15 - 3) / 20)


def test_drift_of_what_is_not_known() -> None:
    assert drift([]) is None
    assert drift([1.0]) is None
    assert drift([1.0, 2.0], [1, 100]) is None
    assert drift([1, 2, 3, np.nan, 5, 6, 7, 8]) == math.inf


def test_the_limit_separates_growth_from_convergence() -> None:
    time = np.arange(1, 201) / 200.0
    for lengths, expected in ((2.0, True), (4.0, True), (5.0, False), (10.0, False)):
        curve = 100.0 * (1.0 - np.exp(-lengths * time))
        assert (moving(np.array([drift(curve)])) is not None) == expected
    assert moving(np.array([drift(time)])) == pytest.approx(0.25, abs=0.01)
    assert moving(np.array([drift(1.0 - time)])) == pytest.approx(-0.25, abs=0.01)


def test_the_mean_drift_of_the_replicas_decides() -> None:
    assert moving(np.array([0.2, -0.2])) == pytest.approx(0.2)  # two that move apart have not converged
    assert moving(np.array([0.1, -0.5])) == pytest.approx(-0.3)
    assert moving(np.array([0.04, -0.05])) is None
    assert moving(np.array([0.2, 0.0])) == pytest.approx(0.1)
    assert moving(np.array([0.05, 0.05])) is None
    assert moving(np.array([0.2, np.nan])) == pytest.approx(0.2)  # a row without it says nothing
    assert moving(np.array([np.nan])) is None
    assert moving(np.array([0.0, math.inf])) == math.inf
