import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cfnsr.data.corpora.ravdess import CORPUS, EMOTIONS
from cfnsr.data.synthetic.design import takes
from cfnsr.evaluation import tables, typeset
from cfnsr.evaluation.selection import RULES
from cfnsr.models.registry import EXTRA, TABLE_1, TABLE_2, find
from cfnsr.params import Clips, Params, SyntheticParams, Training
from cfnsr.training.runs import Predictions, Run

pytestmark = pytest.mark.filterwarnings("error")

CONTROL = Params(synthetic=SyntheticParams())
REAL = Params(data="ravdess")


def run(n_right, row="cfn_sr", fold=1, seed=1, n_parameters=1000, n_clips=8):
    """A fold whose epochs have so many of each actor's 8 clips right, from the first on."""
    actor = np.repeat(CORPUS.groups[fold - 1], n_clips)
    take = np.tile(np.arange(n_clips), 4)
    right = take < np.asarray(n_right)[:, None]  # epoch clip
    emotion = take % len(EMOTIONS)
    predicted = np.where(right, emotion, (emotion + 1) % len(EMOTIONS))
    names = [f"{t:02d}-{a:02d}" for a, t in zip(actor, take, strict=True)]
    clips = pd.DataFrame({"clip": names, "actor": actor, "emotion": emotion})
    logits = 9.0 * np.eye(len(EMOTIONS))[predicted]
    info = {"n_parameters": n_parameters, "forward_gflops": n_parameters / 1e6, "protocol": "paper"}
    return Run(row, fold, seed, info, pd.DataFrame(), Predictions(logits, clips), None)


def by_row(*runs):
    return tables.by_row(runs)


def paper(runs):
    """Runs by row as those of the protocol `paper`."""
    return {"paper": runs} if runs else {}


def two_folds():
    return by_row(run([6, 4], fold=1), run([4, 5], fold=2))


SYSTEMS = TABLE_1 | TABLE_2 | EXTRA


def every_row(folds=range(1, 6), n_right=(3, 6, 5)):
    """All trained rows, the first as accurate as stated and the others less so."""
    names = [name for name, row in SYSTEMS.items() if row.alias is None]
    worse = {name: [max(n - k % 4, 0) for n in n_right] for k, name in enumerate(names)}
    worse["cfn_sr"] = [8, 8, 8]
    return by_row(*[run(worse[name], name, fold) for name in names for fold in folds])


def written(path, runs, params, rows=TABLE_1):
    found = tables.table(rows, paper(runs))
    tests, ceilings = tables.paired_tests(paper(runs)), tables.ceilings(params)
    caption = typeset.caption("Systems", params.data, paper(runs))
    typeset.Printed(found, tests, ceilings, caption).write(path)
    return [path.with_suffix(suffix).read_text() for suffix in (".csv", ".md", ".tex")]


def test_a_hand_worked_table_of_two_folds():
    found = tables.table(TABLE_2, paper(two_folds()))
    assert tuple(found.columns) == tables.COLUMNS
    lines = found[found["row"] == "cfn_sr"].set_index("rule")
    # of 8 clips: best 6 and 5; last 4 and 5; fold 1 takes fold 2's epoch 2, fold 2 fold 1's 1
    assert lines["accuracy_pct"].to_dict() == pytest.approx(
        {
            "best test epoch": 100 * 11 / 16,
            "last epoch": 100 * 9 / 16,
            "chosen on other folds": 100 * 8 / 16,
        }
    )
    assert lines.loc["last epoch", "sd_pct"] == pytest.approx(12.5 / np.sqrt(2))
    assert lines.loc["best test epoch", "uar_pct"] == pytest.approx(100 * 11 / 16)
    assert set(lines["n_folds"]) == {2}
    assert set(lines["n_clips"]) == {64}
    assert set(lines["n_parameters"]) == {1000}
    assert set(lines["forward_gflops"]) == {0.001}
    assert set(lines["protocol"]) == {"paper"}
    assert set(lines["paper_accuracy_pct"]) == {75.76}
    last = lines.loc["last epoch"]
    assert last["ci_low_pct"] < last["accuracy_pct"] < last["ci_high_pct"]


def test_convergence_is_the_rise_of_a_straight_line_through_the_last_quarter():
    runs = [run([0, 1, 2, 3, 4, 5, 6, 6], fold=1), run([0, 1, 2, 3, 4, 4, 6, 4], fold=2)]
    # of the means 4.5, 6, 5 right of 8 after epochs 6, 7 and 8
    assert tables.last_quarter_pct(runs) == pytest.approx(100 / 8 * (5 - 4.5))
    assert tables.last_quarter_pct([run([1, 3])]) == pytest.approx(25)
    assert np.isnan(tables.last_quarter_pct([run([4])]))


def test_a_row_is_never_bold_where_it_or_what_it_is_compared_with_has_not_converged(tmp_path):
    def text(video):
        runs = by_row(*[run(n, row, k) for k in range(1, 6) for row, n in video.items()])
        return written(tmp_path / "t", runs, REAL)[1]

    converged, rising = {"cfn_sr": [1, 1, 1, 1]}, {"cfn_sr": [0, 0, 0, 1]}
    assert "**+75.00" in text(converged | {"video": [7, 7, 7, 7]})
    assert "**" not in text(converged | {"video": [5, 5, 6, 7]})
    assert "**" not in text(rising | {"video": [7, 7, 7, 7]})


def test_an_alias_has_the_numbers_of_the_row_that_it_names():
    found = tables.table(TABLE_2, paper(two_folds())).drop(columns=["label"])
    alias = found[found["row"] == "audio_to_video"].drop(columns="row").reset_index(drop=True)
    named = found[found["row"] == "cfn_sr"].drop(columns="row").reset_index(drop=True)
    pd.testing.assert_frame_equal(alias, named)


def test_rows_without_runs_are_left_out_and_the_order_is_the_registrys():
    runs = by_row(run([1], "cfn_sr"), run([1], "audio"))
    assert list(runs) == ["audio", "cfn_sr"]
    assert list(tables.table(TABLE_1, paper(runs))["row"].unique()) == ["audio", "cfn_sr"]


def test_validation_actors_give_a_fourth_line():
    fold = run([6, 4])
    nested = replace(fold, validation=run([1, 2], fold=2).test)
    found = tables.table({"cfn_sr": find("cfn_sr")}, paper(by_row(nested))).set_index("rule")
    assert list(found.index) == ["best test epoch", "last epoch", "chosen on validation actors"]
    assert found.loc["chosen on validation actors", "accuracy_pct"] == 50


def test_a_paired_test_has_the_difference_and_holms_p():
    folds = range(1, 6)
    runs = by_row(
        *[run([8], "cfn_sr", fold) for fold in folds],
        *[run([6], "audio", fold) for fold in folds],
        *[run([8], "video", fold) for fold in folds],
    )
    tests = tables.paired_tests(paper(runs))
    assert set(tests["rule"]) == set(RULES[:3])
    tests = tests[tests["rule"] == "last epoch"].set_index("row")
    assert tests["difference_pct"].to_dict() == pytest.approx({"video": 0, "audio": -25})
    # twenty actors of equal difference: 2 of 2^20 sign flips are as extreme
    assert tests.loc["audio", "p_value"] == pytest.approx(2 / 2**20)
    assert tests.loc["audio", "p_holm"] == pytest.approx(4 / 2**20)
    assert tests.loc["video", "p_holm"] == 1
    found = tables.table(TABLE_1, paper(runs))
    text = typeset.Printed(found, tests.reset_index(), tables.ceilings(REAL), "").markdown()
    bold = [line.split("|")[1].split("<")[0].strip() for line in text.splitlines() if "**" in line]
    assert bold == ["1D CNN (Aud.)"]
    assert "**\N{MINUS SIGN}25.00\N{NO-BREAK SPACE}(\\<\N{NO-BREAK SPACE}0.001)**" in text


def test_a_verdict_that_depends_on_the_rule_is_said_and_noted():
    """CFN-SR is as good in epoch 1 as the sound alone in epoch 2, and falls behind at the end."""
    runs = by_row(
        *[run([8, 4], "cfn_sr", fold) for fold in range(1, 6)],
        *[run([3, 7], "audio", fold) for fold in range(1, 6)],
        *[run([3, 3], "video", fold) for fold in range(1, 6)],
    )
    tests = tables.paired_tests(paper(runs))
    found = tests.set_index(["row", "rule"])["difference_pct"].to_dict()
    assert found["audio", "best test epoch"] == pytest.approx(-12.5)
    assert found["audio", "last epoch"] == pytest.approx(37.5)
    # Holm over the two rows of a rule, not over all: 20 actors alike have p = 2 / 2^20
    assert tests["p_holm"].tolist() == pytest.approx([4 / 2**20] * 6)
    verdicts = {
        (test["row"], test["rule"]): tables.verdict(test) for test in tests.to_dict("records")
    }
    assert verdicts["audio", "last epoch"] == 1
    assert verdicts["audio", "best test epoch"] == -1
    assert {verdicts["video", rule] for rule in RULES[:3]} == {-1}
    found = tables.table(TABLE_1, paper(runs))
    text = typeset.Printed(found, tests, tables.ceilings(REAL), "").markdown()
    (note,) = [line for line in text.splitlines() if "another verdict" in line]
    assert "best test epoch: \N{MINUS SIGN}12.50 [" in note
    assert "p \\< 0.001" in note
    mark = note.split(" ")[0]
    assert [
        line.split("|")[1].split("<")[0].strip() for line in text.splitlines() if f"){mark}" in line
    ] == ["1D CNN (Aud.)"]


def test_rising_curves_and_intervals_without_width_have_a_note():
    runs = by_row(
        run([2, 3], "erann"), run([2, 3], "cfn_sr"), run([2] * 5, "audio"), run([4], "linear")
    )
    found = tables.table(TABLE_1 | EXTRA, paper(runs))
    assert found.set_index("row")["n_epochs"].to_dict() == {
        "erann": 2,
        "cfn_sr": 2,
        "audio": 5,
        "linear": 1,
    }
    tests, ceilings = tables.paired_tests(paper(runs)), tables.ceilings(REAL)
    text = typeset.Printed(found, tests, ceilings, "", {"audio": "a note"}).markdown()
    (rising,) = [line for line in text.splitlines() if "not converged" in line]
    assert "not converged: +12.50 points over the last quarter of its epochs" in rising
    assert f"ERANNs<sup>3, {rising[5]}</sup>" in text
    # every actor has as many right as every other
    (flat,) = [line for line in text.splitlines() if "every actor has the same" in line]
    assert text.count(f"[37.5,\N{NO-BREAK SPACE}37.5]{flat.split(' ')[0]}") == 4
    assert "a note" in text
    uneven = [run([2], fold=1), run([4], fold=2)]
    found = tables.table(TABLE_1, paper(by_row(*uneven)))
    text = typeset.Printed(found, tests[:0], ceilings, "").markdown()
    assert "every actor has the same" not in text


def test_rows_of_more_seeds_than_others_say_so():
    several = [run([n], "cfn_sr", fold, seed=s) for fold in (1, 2) for s, n in ((5, 4), (7, 6))]
    runs = by_row(*several, *[run([4], "audio", fold, seed=5) for fold in (1, 2)])
    assert tables.extent("paper", runs).endswith("1 to 2 seeds a fold")
    found = tables.table(TABLE_1, paper(runs))
    tests, ceilings = tables.paired_tests(paper(runs)), tables.ceilings(REAL)
    text = typeset.Printed(found, tests, ceilings, "").markdown()
    (note,) = [line for line in text.splitlines() if "mean of 2 seeds" in line]
    labels = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    assert [label for label in labels if f"{note[5]}</sup>" in label] == [
        f" CFN-SR<sup>{note[5]}</sup> "
    ]
    seeds = tables.seeds(runs, "last epoch")
    expected = {"CFN-SR": {5: 50.0, 7: 75.0, "range": 25.0, "n_folds": 2}}
    assert seeds.to_dict("index") == expected
    more = by_row(*several, run([8], "cfn_sr", 3, seed=5))  # a fold that seed 7 lacks
    assert tables.seeds(more, "last epoch").to_dict("index") == expected
    alone = paper(by_row(*several))
    printed = typeset.Printed(tables.table(TABLE_1, alone), tests[:0], ceilings, "")
    assert "seeds" not in printed.markdown()
    assert tables.seeds(by_row(run([4])), "last epoch").empty


def test_networks_smaller_than_the_papers_are_said_to_be():
    small = tables.table(TABLE_1, paper(by_row(run([1], n_parameters=1_074_841))))
    assert tables.reduced_size(small) == (
        "networks of reduced size (CFN-SR 1.07 M parameters; the paper's 26.30 M)"
    )
    full = tables.table(TABLE_1, paper(by_row(run([1], n_parameters=26_301_234))))
    assert tables.reduced_size(full) == ""
    assert tables.reduced_size(tables.table(TABLE_1, {})) == ""
    blocks = SyntheticParams(model={"n_blocks": [1, 1, 1, 1]})
    assert "1-1-1-1" in tables.row_notes(Params(synthetic=blocks))["video"]
    assert tables.row_notes(CONTROL) == {}
    pretrained = SyntheticParams(training=Training(pretrained="resnext.pth"))
    assert "checkpoint" in tables.row_notes(Params(synthetic=pretrained))["video"]


def test_the_hybrid_s_networks_say_which_weights_they_start_from_and_how_wide_they_are():
    narrow = SyntheticParams(hybrid={"width": 0.25, "c3d": "c3d.pth"})
    notes = tables.hybrid_notes(Params(synthetic=narrow))
    assert notes["hybrid_video"].endswith("from a checkpoint; 0.25 of its published width")
    assert notes["hybrid_audio"].endswith("from random weights; 0.25 of its published width")
    full = tables.hybrid_notes(Params(synthetic=SyntheticParams()))
    assert full["hybrid_audio"] == "its training starts from random weights"


def test_without_cfn_sr_there_is_nothing_to_compare_with():
    tests = tables.paired_tests(paper(by_row(run([1], "audio"))))
    assert tests.empty
    assert tuple(tests.columns) == tables.TEST_COLUMNS


def test_metrics_are_one_line_of_the_row_that_is_asked_for():
    runs = by_row(run([1, 2, 1], fold=4, n_clips=6), run([3], "audio", fold=4, n_clips=6))
    table = tables.table(TABLE_1, paper(runs))
    found = tables.metrics(table, [4], "all")
    assert found == {
        "folds": "4",
        "system": "cfn_sr",
        "best_test_epoch": 33.33,
        "last_epoch": 16.67,
        "last_epoch_low": 16.67,
        "last_epoch_high": 16.67,
        "last_epoch_uar": 16.67,
    }
    json.dumps(found)
    asked = tables.metrics(table, [4], "audio")
    assert (asked["system"], asked["last_epoch"]) == ("audio", 50.0)


def test_metrics_are_of_the_first_row_where_neither_the_one_asked_for_nor_cfn_sr_is_there():
    table = tables.table(TABLE_1, paper(by_row(run([3], "audio"))))
    assert tables.metrics(table, [1], "all")["system"] == "audio"
    assert tables.metrics(table, [1, 2, 3], "all")["folds"] == "1 to 3"


def test_only_folds_without_a_gap_are_a_range():
    assert tables.setting(CONTROL, [1, 2, 3]).endswith("the paper's split, folds 1 to 3")
    assert tables.setting(CONTROL, [1, 3]).endswith("folds 1, 3")
    assert tables.setting(CONTROL, [3]).endswith("fold 3")
    assert tables.setting(CONTROL).endswith("folds 1 to 5")
    assert tables.folds(by_row(run([1], fold=3), run([1], "audio", fold=1))) == (1, 3)


def test_the_protocols_are_tested_and_corrected_each_for_itself():
    folds = range(1, 6)
    rows = {"cfn_sr": 8, "audio": 6, "video": 7}
    runs = [run([n], row, fold) for row, n in rows.items() for fold in folds]
    nested = [replace(r, info=r.info | {"protocol": "nested"}) for r in runs if r.row != "video"]
    tests = tables.paired_tests(tables.by_protocol(runs + nested))
    tests = tests[tests["rule"] == "last epoch"]
    assert [*zip(tests["row"], tests["protocol"], strict=True)] == [
        ("video", "paper"),
        ("audio", "paper"),
        ("audio", "nested"),
    ]
    assert tests["p_holm"].tolist() == pytest.approx([4 / 2**20, 4 / 2**20, 2 / 2**20])


def test_pairs_are_of_every_rule_and_corrected_for_all_of_a_protocol():
    by_protocol = {"paper": by_row(run([5], "video"), run([6], "audio"), run([7]))}
    pairs = tables.all_pairs(by_protocol)
    assert list(pairs.columns) == list(tables.PAIR_COLUMNS)
    assert set(pairs["rule"]) == {"best test epoch", "last epoch"}  # one fold, no other to choose
    of_rule = pairs[pairs["rule"] == "last epoch"].set_index(["row_a", "row_b"])
    assert set(of_rule.index) == {("video", "audio"), ("video", "cfn_sr"), ("audio", "cfn_sr")}
    assert of_rule.loc[("video", "cfn_sr"), "difference_pct"] == pytest.approx(-25)
    against = tables.paired_tests(by_protocol).set_index(["row", "rule"])
    video = against.loc[("video", "last epoch")]
    assert of_rule.loc[("video", "cfn_sr"), "p_value"] == video["p_value"]
    assert of_rule.loc[("video", "cfn_sr"), "p_holm"] >= video["p_holm"]


def test_ceilings_are_known_for_the_control_alone():
    known = tables.ceilings(CONTROL).set_index("modality")["ceiling_pct"]
    assert known["video"] < known["audio_video"]
    assert known["audio"] < known["audio_video"] < 100
    unknown = tables.ceilings(REAL)
    assert list(unknown.columns) == ["modality", "ceiling_pct", "chance_pct"]
    assert unknown["ceiling_pct"].isna().all()
    assert unknown["chance_pct"].tolist() == pytest.approx([100 * 192 / 1440] * 4)


def test_chance_is_the_share_of_the_most_frequent_emotion():
    emotions = pd.Series([take.emotion for take in takes(Clips())])
    assert pytest.approx(100 * emotions.value_counts(normalize=True).max()) == 100 * 2 / 15
    assert tables.ceilings(CONTROL)["chance_pct"].tolist() == [CORPUS.chance_pct] * 4


def test_a_row_is_measured_against_the_ceiling_of_what_it_sees_and_hears():
    kinds = {name: tables.modality(row) for name, row in SYSTEMS.items()}
    assert {name for name, kind in kinds.items() if kind == "video"} == {"video"}
    assert {name for name, kind in kinds.items() if kind == "audio"} == {"audio", "erann"}
    assert kinds["mmtm"] == kinds["cfn_sr"] == "audio_video"
    assert kinds["averaging"] == kinds["no_cross_modal"] == "additive"


@pytest.mark.parametrize(("n_right", "leaks"), [(5, False), (6, False), (8, True)])
def test_only_a_row_above_its_ceiling_beyond_chance_leaks(n_right, leaks):
    runs = by_row(run([8, n_right], "audio"))
    found = tables.above_ceiling(tables.table(TABLE_1, paper(runs)), tables.ceilings(CONTROL))
    assert (not found.empty) == leaks
    assert "best test epoch" not in set(found["rule"])


def test_nothing_leaks_where_no_ceiling_is_known():
    found = tables.table(TABLE_1, paper(every_row(folds=[1, 2])))
    assert tables.above_ceiling(found, tables.ceilings(REAL)).empty
    assert tables.above_ceiling(tables.table(TABLE_1, {}), tables.ceilings(CONTROL)).empty


def test_a_csv_has_two_decimals_and_no_word_for_missing_numbers(tmp_path):
    text, _, _ = written(tmp_path / "table", by_row(run([1], "erann", n_clips=6)), REAL)
    header, line, _ = text.splitlines()
    assert header == ",".join(tables.COLUMNS)
    assert line.startswith("erann,ERANNs,Model,1000,1,,74.80,best test epoch,16.67,,16.67,16.67,")
    assert ",paper,1,0.001," in line  # operations that two decimals would make 0.00


def test_a_markdown_table_has_a_line_a_row_and_the_setting_above(tmp_path):
    runs = every_row(n_right=(3, 6, 5, 4, 4))
    _, text, _ = written(tmp_path / "table", runs, CONTROL, TABLE_1 | EXTRA)
    caption, grid, *notes = text.strip().split("\n\n")
    assert (
        "synthetic control: protocol paper, folds 1 to 5, 160 test clips, 1 seed a fold" in caption
    )
    header, _, *lines = grid.splitlines()
    (others,) = [line for line in lines if line.startswith("| **Not in the paper**")]
    assert lines.index(others) == len(TABLE_1)
    assert len(lines) == len(TABLE_1 | EXTRA) + 1
    assert {line.count("|") for line in grid.splitlines()} == {header.count("|")}
    assert "Ceiling, %" in header
    # all actors are alike here, so that intervals have no width: one more note
    assert len(notes) == 1 + len({row.note for row in (TABLE_1 | EXTRA).values() if row.note})


def test_real_data_has_no_column_for_ceilings(tmp_path):
    _, text, tex = written(tmp_path / "table", two_folds(), REAL)
    assert "Ceiling" not in text + tex
    assert "Measured on RAVDESS: protocol paper" in text


def test_a_latex_table_is_escaped_and_every_row_ends(tmp_path):
    runs = every_row(folds=[1, 2])
    _, _, text = written(tmp_path / "table", runs, CONTROL, TABLE_1 | TABLE_2 | EXTRA)
    assert text.isascii()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line not in (r"\toprule", r"\midrule")]
    assert len(lines) == len(SYSTEMS) + 2  # the header, and one above those not in the paper
    assert all(line.endswith(r" \\") for line in lines)
    columns = re.search(r"\\begin{tabular}{(\w+)}", text)[1]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
    uncommented = text.split("\n", 1)[1]
    assert not re.search(r"(?<!\\)%(?!\n)|(?<!\\)[#_]|(?<!\$)[<>]", uncommented.replace("$>$", ""))
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for name in re.findall(r"\\begin{(\w+)", text):
        assert rf"\end{{{name}" in text


def test_latex_escapes_what_it_would_take_for_commands():
    assert typeset._TEX.escape(r"a & b_c 5 % \x {y} V->A [z]") == (
        r"a \& b\_c 5 \% \textbackslash{}x \{y\} V$\rightarrow$A {[}z]"
    )
    assert typeset._MARKDOWN.escape("a | b_c *d*") == r"a \| b\_c \*d\*"


@pytest.mark.parametrize("params", [CONTROL, REAL])
def test_an_empty_table_has_its_header(tmp_path, params):
    text, markdown, tex = written(tmp_path / "table", {}, params)
    assert text == ",".join(tables.COLUMNS) + "\n"
    assert "| System |" in markdown
    assert r"\toprule" in tex
    typeset.write_csv(tables.paired_tests({}), tmp_path / "tests.csv")
    assert (tmp_path / "tests.csv").read_text() == ",".join(tables.TEST_COLUMNS) + "\n"


def test_a_csv_has_no_zero_below_zero(tmp_path):
    typeset.write_csv(pd.DataFrame({"low": [-0.001, -0.006, np.nan]}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().split() == ["low", "0.00", "-0.01", '""']


def test_equal_runs_give_equal_bytes(tmp_path):
    names = ["video", "audio", "averaging", "erann", "cfn_sr"]
    first, second = (
        written(
            tmp_path / of, by_row(*[run([3, 6], row, k) for row in names for k in (1, 2)]), CONTROL
        )
        for of in ("first", "second")
    )
    assert first == second
