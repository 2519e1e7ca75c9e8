"""Tests of `cfnsr.evaluation.gains` on made-up predictions."""

import matplotlib.pyplot as plt
import pytest
from test_predictions import nested, paper
from test_results import is_cut

from cfnsr.evaluation import gains, predictions, scores, tables
from cfnsr.figures import results
from cfnsr.params import Params

ROWS = ("cfn_sr", gains.WITHOUT)


@pytest.fixture
def repository(tmp_path):
    """Predictions of both protocols on one source, of one on another, and of one row on a third."""
    for data, runs in {
        "pointing/predictions/nested": nested(ROWS),
        "pointing/predictions/paper": paper(ROWS),
        "ravdess/predictions/paper": paper(ROWS),
        "synthetic/predictions/paper": paper(("cfn_sr", "audio")),
    }.items():
        predictions.write(runs, tmp_path / "figures" / data)
    return tmp_path


def test_each_source_that_has_both_systems_has_its_paired_difference(repository):
    table = gains.block_gains(Params(), repository)
    assert table[["data", "protocol"]].to_numpy().tolist() == [
        ["pointing", "nested"],
        ["ravdess", "paper"],
    ]
    runs = tables.by_row(nested(ROWS))
    expected = scores.paired_test(
        *(scores.outcomes(runs[row], "last epoch") for row in ROWS), "last epoch"
    )
    first = table.iloc[0]
    assert first["difference_pct"] == pytest.approx(expected.difference_pct)
    assert first["accuracy_pct_with"] - first["accuracy_pct_without"] == pytest.approx(
        expected.difference_pct
    )
    assert first["additive_ceiling_pct"] < first["ceiling_pct"] < 100
    assert table["ceiling_pct"].isna().tolist() == [False, True]


@pytest.mark.filterwarnings("error")
def test_the_figure_shows_both_and_cuts_no_text(repository):
    table = gains.block_gains(Params(), repository)
    figure = results.block_gains(table, "What the blocks add\nlast epoch")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "pointing control, split with\nvalidation actors",
        "RAVDESS, the paper's split",
    ]
    assert not is_cut(figure)
    plt.close(figure)
