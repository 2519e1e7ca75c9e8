import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from test_results import is_cut, texts

from cfnsr.data.corpora.ravdess import CLIPS_PER_FOLD
from cfnsr.evaluation import typeset
from cfnsr.figures import reanalysis, style
from cfnsr.models.registry import TABLE_1, TABLE_2
from cfnsr.reanalysis import printed, released_log

pytestmark = pytest.mark.filterwarnings("error")

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY.parent / "shared" / "reference"
ACCURACY = released_log.accuracy()


def reference(name):
    if not (path := REFERENCE / name).exists():
        pytest.skip(f"{path} is not beside this checkout")
    return path


@cache
def choosing_gain():
    """2,000 simulated logs of each kind."""
    return released_log.choosing_gain(ACCURACY)


@cache
def drawn():
    """Every figure of notebook 05."""
    rules = released_log.selection_rules(ACCURACY)
    gain, ties = choosing_gain(), released_log.ties_on_other_folds(ACCURACY)
    return {
        "possible_accuracies": reanalysis.possible_accuracies(printed.possible_rows()),
        "selection_rules": reanalysis.selection_rules(rules, gain, ties, ACCURACY.mean()),
        "log_curves": reanalysis.log_curves(ACCURACY),
        "resolution": reanalysis.resolution(printed.resolution(), 4.6),
    }


def write_all(folder):
    """Save tables and figures, and return their hashes."""
    for name, figure in drawn().items():
        style.save(figure, folder / name)
    typeset.write_csv(choosing_gain(), folder / "choosing_gain.csv")
    typeset.write_csv(printed.agreement_needed(), folder / "agreement_needed.csv")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_table_1_but_for_eranns_is_possible_on_six_folds_only():
    table = printed.possible_rows()
    assert table.columns.tolist() == [
        "table",
        "row",
        "accuracy_pct",
        "possible_of_1440",
        "possible_of_1200",
    ]
    first = table[table["table"] == 1].set_index("row")
    assert list(first.index) == list(TABLE_1)
    assert first.index[~first["possible_of_1440"]].tolist() == ["erann"]
    assert not first["possible_of_1200"].any()


def test_two_ablations_are_possible_on_five_folds_only_and_two_on_neither():
    table = printed.possible_rows()
    second = table[table["table"] == 2].set_index("row")
    assert list(second.index) == list(TABLE_2)
    fits = second[["possible_of_1440", "possible_of_1200"]].apply(tuple, axis=1)
    assert fits.to_dict() == {
        "cfn_sr": (True, False),
        "no_cross_modal": (False, True),
        "video_to_audio": (False, False),
        "audio_to_video": (True, False),
        "no_self_attention": (False, False),
        "no_residual": (False, True),
    }


@pytest.mark.parametrize(("number", "rows"), [(1, TABLE_1), (2, TABLE_2)])
def test_the_registry_has_the_accuracies_of_the_papers_tables(number, rows):
    printed = pd.read_csv(reference(f"table{number}.csv")).set_index("row")["accuracy_pct"]
    assert {name: row.paper_accuracy_pct for name, row in rows.items()} == printed.to_dict()


def test_the_packages_log_is_the_reference_log():
    pd.testing.assert_frame_equal(
        released_log.read(), pd.read_csv(reference("released_training_log.csv"))
    )


def test_the_log_has_five_folds_of_seventy_epochs_in_whole_clips():
    assert ACCURACY.shape == (5, 70)
    assert set(released_log.read()["n_test_clips"]) == {CLIPS_PER_FOLD}
    np.testing.assert_allclose(100 * np.round(2.4 * ACCURACY) / 240, ACCURACY, atol=0.005)


def test_three_claims_of_the_text_do_not_hold_in_its_tables():
    table = printed.text_claims()
    broken = table[~table["holds"]]
    assert broken[["claim", "said"]].apply(tuple, axis=1).tolist() == [
        ("the cross-modal block costs", "0.03"),
        ("self-attention brings", "> 2"),
        ("V->A is the final model; gap", "0.00"),
    ]
    assert broken["in_tables"].round(2).tolist() == [0.38, 1.90, 1.61]


@pytest.mark.parametrize(
    ("said", "in_tables", "holds"),
    [
        ("2.64", 75.76 - 73.12, True),
        ("0.9", 0.94, True),
        ("0.9", 0.96, False),
        ("0.95", 0.96, False),
        ("> 2", 2.0000000001, False),
        ("> 2", 2.01, True),
    ],
)
def test_a_claim_holds_to_the_decimals_that_are_printed(said, in_tables, holds):
    assert printed.holds(said, in_tables) is holds


def test_the_log_gives_each_rule_its_accuracy(tmp_path):
    rules = released_log.selection_rules(ACCURACY)
    typeset.write_csv(rules, tmp_path / "rules.csv")
    assert (tmp_path / "rules.csv").read_text().splitlines() == [
        "rule,accuracy_pct",
        "best test epoch,75.67",
        "best common epoch,70.42",
        "chosen on other folds,68.58",
        "last epoch,66.50",
    ]
    assert released_log.chosen_epochs(ACCURACY, "best common epoch").tolist() == [42] * 5


def test_only_fold_2_has_a_tie_and_it_is_worth_one_point(tmp_path):
    typeset.write_csv(released_log.ties_on_other_folds(ACCURACY), tmp_path / "ties.csv")
    assert (tmp_path / "ties.csv").read_text().splitlines() == [
        "fold,epoch,n_correct_on_others,logged_sum_on_others_pct,fold_accuracy_pct,"
        "mean_accuracy_pct",
        "2,14,676,281.66,65.42,67.58",
        "2,42,676,281.67,70.42,68.58",
    ]


def test_a_log_without_ties_has_none():
    assert released_log.ties_on_other_folds([[50, 60], [50, 60]]).empty


def test_a_fold_that_alternates_by_two_points_jumps_by_the_root_of_two():
    noise = released_log.fold_noise([[50, 52, 50, 52], [60, 60, 60, 60]])
    assert noise["jump_sd_pct"].tolist() == pytest.approx([2**0.5, 0])
    assert noise["binomial_sd_pct"][1] == pytest.approx(100 * (0.6 * 0.4 / 240) ** 0.5)


def test_the_simulated_gains_are_those_of_order_statistics():
    def largest(n):
        density = lambda x: x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1)  # noqa: E731
        return integrate.quad(density, -10, 10)[0]

    gain = choosing_gain().set_index("rule")
    noise = released_log.fold_noise(ACCURACY)
    sd, n_epochs, n_folds = noise["jump_sd_pct"], ACCURACY.shape[1], len(ACCURACY)
    # Each fold's largest, or the largest of the folds' mean; the honest rules gain nothing.
    each, common = sd.mean() * largest(n_epochs), (sd**2).sum() ** 0.5 / n_folds * largest(n_epochs)
    found = gain["jumps_points"]
    assert found.to_list() == pytest.approx([each, common, 0, 0], abs=0.15)
    binomial = noise["binomial_sd_pct"].mean() * largest(n_epochs)
    assert gain["binomial_points"].iloc[0] == pytest.approx(binomial, abs=0.15)


def test_every_rule_of_the_log_gains_what_logs_without_better_epochs_gain():
    gain = choosing_gain()
    assert (gain["jumps_low_points"] <= gain["log_points"]).all()
    assert (gain["log_points"] <= gain["jumps_high_points"]).all()
    assert gain["log_points"].round(1).tolist() == [9.1, 3.9, 2.0, -0.1]


def test_1440_clips_tell_none_of_the_three_next_best_systems_nor_an_ablation_from_cfn_sr():
    table = printed.resolution()
    assert table.columns.tolist() == [
        "row",
        "accuracy_pct",
        "ci_low_pct",
        "ci_high_pct",
        "resolved_from_cfn_sr",
    ]
    assert table["row"].is_unique
    unresolved = table.loc[~table["resolved_from_cfn_sr"], "row"].tolist()
    assert [name for name in unresolved if name in TABLE_1] == ["mmtm", "msaf", "erann", "cfn_sr"]
    assert [name for name in unresolved if name not in TABLE_1] == [
        name for name, row in TABLE_2.items() if name != "cfn_sr" and row.alias is None
    ]
    own = table.set_index("row").loc["cfn_sr"]
    assert (round(own["ci_low_pct"], 1), round(own["ci_high_pct"], 1)) == (73.5, 77.9)


@given(st.integers(1, 1439), st.integers(1, 1439))
def test_the_unpaired_p_value_is_that_of_the_pooled_z_statistic(k, m):
    n = 1440
    pooled = (k + m) / (2 * n)
    z = (k - m) / n / (2 * pooled * (1 - pooled) / n) ** 0.5
    assert printed.unpaired_p_value(k, m) == pytest.approx(2 * stats.norm.sf(abs(z)))


def test_the_smallest_difference_is_found_in_four_of_five_simulations():
    points = printed.smallest_difference(75.76)
    assert points == pytest.approx(4.6, abs=0.05)
    generator, n = np.random.default_rng(1), 1440
    better = generator.binomial(n, 0.7576, 20_000)
    worse = generator.binomial(n, 0.7576 - points / 100, 20_000)
    pooled = (better + worse) / (2 * n)
    z = (better - worse) / np.sqrt(2 * n * pooled * (1 - pooled))
    assert np.mean(z > stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.01)


def test_the_smallest_difference_solves_its_equation_worked_by_hand():
    # 50 % against 50 % - δ with n so large that both variances are 1/4
    n = 10**8
    expected = 100 * (1.959964 + 0.841621) * (0.5 / n) ** 0.5
    assert printed.smallest_difference(50, n) == pytest.approx(expected, rel=1e-3)
    halved = printed.smallest_difference(50, n, correlation=0.75)
    assert halved == pytest.approx(expected / 2, rel=1e-3)


def test_the_paired_difference_is_found_by_mcnemars_test_in_four_of_five_simulations():
    points = printed.smallest_difference(75.76, correlation=0.5)
    p, q = 0.7576, 0.7576 - points / 100
    both = p * q + 0.5 * (p * (1 - p) * q * (1 - q)) ** 0.5
    cells = np.random.default_rng(2).multinomial(
        1440, [both, p - both, q - both, 1 - p - q + both], 20_000
    )
    won, lost = cells[:, 1], cells[:, 2]
    found = (won - lost) / np.sqrt(won + lost) > stats.norm.ppf(0.975)
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_in_the_best_case_six_clips_are_significant():
    assert stats.binomtest(6, 6).pvalue < 0.05 < stats.binomtest(5, 5).pvalue
    share = printed.best_case_difference() / 100
    assert stats.binom.sf(5, 1440, share) == pytest.approx(0.8)


def test_smallest_differences_shrink_with_agreement():
    table = printed.smallest_differences()
    assert table["found_in_80_pct_points"].round(1).tolist() == [4.6, 3.2, 0.5]
    assert (table["found_in_50_pct_points"] < table["found_in_80_pct_points"]).all()
    assert table["disagree_pct"].is_monotonic_decreasing


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(0, 60))
def test_the_most_discordant_clips_are_the_last_that_mcnemars_exact_test_resolves(k, m):
    n, difference = 60, abs(k - m)
    largest = min(k + m, 2 * n - k - m)  # one alone right on more is impossible
    resolved = [
        discordant
        for discordant in range(max(difference, 1), largest + 1)
        if (discordant - difference) % 2 == 0
        and stats.binomtest((discordant + difference) // 2, discordant).pvalue < 0.05
    ]
    expected = max(resolved) if difference and resolved else np.nan
    assert printed.most_discordant(k, m, n) == pytest.approx(expected, nan_ok=True)


def test_msaf_must_be_right_on_almost_the_same_clips_to_be_told_from_cfn_sr():
    table = printed.agreement_needed().set_index("row")
    assert table.loc["msaf", "disagree_at_most_pct"] < 3
    assert (
        table.loc["mcbp", "disagree_at_most_pct"] > table.loc["mcbp", "disagree_if_independent_pct"]
    )
    needed = table["disagree_at_most_pct"] < table["disagree_if_independent_pct"]
    assert (needed == (table["p_unpaired"] >= 0.05)).all()


def test_every_figure_names_its_source_and_is_not_cut():
    for name, figure in drawn().items():
        source = figure.get_suptitle().splitlines()[-1]
        of_log = name in ("selection_rules", "log_curves")
        assert source == (reanalysis.LOG if of_log else reanalysis.PAPER)
        assert not is_cut(figure), name


def test_the_curves_mark_the_epochs_that_the_rules_choose():
    *folds, mean = reanalysis.log_curves(ACCURACY).axes
    for rule, line in (("best test epoch", 1), ("chosen on other folds", 2), ("last epoch", 3)):
        marked = [int(axis.lines[line].get_xdata()[0]) for axis in folds]
        assert marked == released_log.chosen_epochs(ACCURACY, rule).tolist()
    assert mean.lines[1].get_xydata().round(2).tolist() == [[42, 70.42]]


def test_the_matrix_shows_clips_where_they_are_possible():
    shown = texts(reanalysis.possible_accuracies(printed.possible_rows()))
    assert shown.count("1091") == 3
    assert {"882", "904", "Table 1", "Table 2"} <= set(shown)


def test_drawing_and_computing_again_writes_the_same_bytes(tmp_path):
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    written = write_all(first)
    drawn.cache_clear()
    choosing_gain.cache_clear()
    assert len(written) == 10
    assert write_all(second) == written
