"""Tables as csv, Markdown and LaTeX files; equal tables give equal bytes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from cfnsr.data.corpora import Protocol
from cfnsr.evaluation.selection import RULES
from cfnsr.evaluation.tables import (
    CONVERGED_PCT,
    DATA_LABELS,
    TEST_RULE,
    RunsByRow,
    extent,
    row_ceilings,
    verdict,
)
from cfnsr.evaluation.uncertainty import LEVEL
from cfnsr.models.registry import REFERENCE, find
from cfnsr.params import DRAWN, Source

MINUS = "\N{MINUS SIGN}"
#: Keeps a number and its interval on one line.
_SPACE = "\N{NO-BREAK SPACE}"
_ROUNDING = 1e-6
#: Columns that are aligned to the left.
_WORDS = ("System", "Protocol", "Fusion")


def signed(value: float, n_digits: int) -> str:
    """A number as text, with its sign and a true minus.

    >>> signed(0.26, 1), signed(-0.001, 2)
    ('+0.3', '+0.00')
    """
    return f"{round(value, n_digits) + 0.0:+.{n_digits}f}".replace("-", MINUS)  # no negative zero


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a table on a terminal, two spaces between its columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def caption(name: str, data: Source, runs: Mapping[Protocol, RunsByRow]) -> str:
    """What a printed table says above itself."""
    measured = "; ".join(extent(protocol, runs_by_row) for protocol, runs_by_row in runs.items())
    ceiling = (
        " Ceiling: the best possible accuracy from what a system sees and hears; of systems that "
        "add up what face and voice say, the best that adding up can reach."
        if data in DRAWN
        else ""
    )
    return (
        f"{name}. Measured on {DATA_LABELS[data]}: {measured}. Accuracy in % under each rule for "
        "choosing the epoch, with its 95 % interval, resampled by actor. Paper: as printed there, "
        "on RAVDESS. UAR and the difference from CFN-SR are of the last epoch; the difference and "
        "its p are of a paired test by actor, on "
        "the seeds that both have or on all where they have none in common, with Holm's correction "
        f"over the comparisons with CFN-SR. A difference is bold where p < {LEVEL} and both have "
        f"converged: accuracy rises by at most {CONVERGED_PCT:g} point over the last quarter of "
        f"their epochs.{ceiling}"
    )


@dataclass(frozen=True, eq=False)
class Printed:
    """A table as it is printed, one line a row and protocol, with notes below.

    Attributes:
        table: see `tables.table`; tests: `tables.paired_tests`; ceilings: `tables.ceilings`.
        row_notes: by row, beside the registry's own.
    """

    table: pd.DataFrame
    tests: pd.DataFrame
    ceilings: pd.DataFrame
    caption: str
    row_notes: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        write_csv(self.table, path.with_suffix(".csv"))
        path.with_suffix(".md").write_text(self.markdown(), "utf-8")
        path.with_suffix(".tex").write_text(self.tex(), "utf-8")

    def markdown(self) -> str:
        """As GitHub and JupyterLab show it."""
        header, lines, notes = _cells(self, _MARKDOWN)
        rule = [":--" if name in _WORDS else "--:" for name in header]
        grid = [f"| {' | '.join(line)} |" for line in (header, rule, *lines)]
        paragraphs = [_MARKDOWN.escape(self.caption), "\n".join(grid), *notes]
        return "\n\n".join(paragraphs) + "\n"

    def tex(self) -> str:
        r"""For LaTeX with booktabs and graphicx, to be read by \input."""
        header, lines, notes = _cells(self, _TEX)
        head, *body = [f"{' & '.join(line)} \\\\" for line in (header, *lines)]
        text = [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{_TEX.escape(self.caption)}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{''.join('l' if name in _WORDS else 'r' for name in header)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *[rf"\par\footnotesize {note}" for note in notes],
            r"\end{table*}",
        ]
        return "\n".join(text) + "\n"


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Two decimals, but three or four digits of what may be small; nothing for a missing number."""
    small = {column: 3 for column in map(str, table) if column.startswith("p_")}
    small |= {column: 4 for column in ("forward_gflops", "ece") if column in table}
    as_text = {
        column: ["" if isnan(value) else f"{value:.{n_digits}g}" for value in table[column]]
        for column, n_digits in small.items()
    }
    table.assign(**as_text).to_csv(
        path, index=False, float_format="{:z.2f}".format, lineterminator="\n"
    )


@dataclass(frozen=True)
class _Markup:
    escape: Callable[[str], str]
    bold: str
    raised: str


_TEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "->": r"$\rightarrow$",
    "<": "$<$",
    ">": "$>$",
    "[": "{[}",  # a line break would take it for its optional argument
    "±": r"$\pm$",
    MINUS: "$-$",
    _SPACE: "~",
    "β": r"$\beta$",
} | {character: f"\\{character}" for character in "&%$#_{}"}
_TEX_PATTERN = re.compile("|".join(map(re.escape, sorted(_TEX_SPECIAL, key=len, reverse=True))))
_TEX = _Markup(
    escape=lambda text: _TEX_PATTERN.sub(lambda match: _TEX_SPECIAL[match[0]], text),
    bold=r"\textbf{{{}}}",
    raised=r"\textsuperscript{{{}}}",
)
_MARKDOWN = _Markup(
    escape=lambda text: re.sub(r"([\\|*_<`])", r"\\\1", text),
    bold="**{}**",
    raised="<sup>{}</sup>",
)


def _cells(printed: Printed, markup: _Markup) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, lines and notes; a rule has a column where it applies to any row."""
    ceiling = row_ceilings(printed.table, printed.ceilings)
    table, tests = printed.table.assign(ceiling=ceiling), printed.tests
    has_ceilings = bool(printed.ceilings["ceiling_pct"].notna().any())
    has_protocols = table["protocol"].nunique() > 1
    differing_seeds = table["n_seeds"].nunique() > 1
    # The verdict comes early: a page that is narrow cuts off what is on the right.
    others = [rule for rule in RULES if rule in set(table["rule"]) - {TEST_RULE}]
    header = ["System", *["Protocol"] * has_protocols, "Paper, %", TEST_RULE]
    header += ["vs CFN-SR, points (p)", *["Ceiling, %"] * has_ceilings, *others, "UAR, %"]
    header += ["Fusion", "Parameters as trained", "Paper, M", "Epochs"]
    is_rising = table["last_quarter_pct"] > CONVERGED_PCT
    unconverged = set(table.loc[is_rising & (table["row"] == REFERENCE), "protocol"])
    numbers: dict[str, int] = {}  # of notes, in the order of their marks; equal notes share one

    def mark(*notes: str) -> str:
        """The raised numbers of some notes; empty ones have none."""
        said = [str(numbers.setdefault(note, len(numbers) + 1)) for note in notes if note]
        return markup.raised.format(", ".join(said)) if said else ""

    is_beyond = False
    lines: list[list[str]] = []
    for names, group in table.groupby(["row", "protocol"], sort=False):
        name, protocol = map(str, names)
        first, row = group.iloc[0], find(name)
        n_seeds, rise_pct = first["n_seeds"], first["last_quarter_pct"]
        scores = {line["rule"]: line for line in group.to_dict("records")}
        of_row = tests[(tests["row"] == name) & (tests["protocol"] == protocol)]
        by_rule = {test["rule"]: test for test in of_row.to_dict("records")}
        rising = (
            f"not converged: {signed(rise_pct, 2)} points over the last quarter of its epochs"
            if rise_pct > CONVERGED_PCT
            else ""
        )
        label = markup.escape(row.label) + mark(
            row.note,
            printed.row_notes.get(name, ""),
            rising,
            f"mean of {n_seeds} seeds" if differing_seeds and n_seeds > 1 else "",
        )
        accuracies = {
            rule: markup.escape(_accuracy(scores[rule])) + mark(_no_width(scores[rule]))
            if rule in scores
            else "-"
            for rule in RULES
        }
        test = by_rule.get(TEST_RULE)
        difference = markup.escape(_difference(test))
        if test and verdict(test) and not rising and protocol not in unconverged:
            difference = markup.bold.format(difference)
        if lines and row.paper_accuracy_pct is None and not is_beyond:
            is_beyond = True
            lines.append([markup.bold.format("Not in the paper"), *[""] * (len(header) - 1)])
        lines.append(
            [
                label,
                *[protocol] * has_protocols,
                _number(first["paper_accuracy_pct"]),
                accuracies[TEST_RULE],
                difference + mark(_other_verdicts(by_rule)),
                *[_number(first["ceiling"])] * has_ceilings,
                *[accuracies[rule] for rule in others],
                _number(scores[TEST_RULE]["uar_pct"]),
                markup.escape(row.fusion_stage),
                f"{first['n_parameters']:,}",
                _number(first["paper_params_millions"]),
                "-" if row.schedule == "none" else str(first["n_epochs"]),
            ]
        )
    notes = [f"{mark(text)} {markup.escape(text)}." for text in list(numbers)]
    return [markup.escape(name) for name in header], lines, notes


def _no_width(score: Mapping[Any, Any]) -> str:
    has_none = score["ci_high_pct"] - score["ci_low_pct"] < _ROUNDING
    return "an interval of width 0: every actor has the same number right" if has_none else ""


def _other_verdicts(by_rule: Mapping[str, Mapping[Any, Any]]) -> str:
    """Where a row is better, worse or neither, but was not so after the last epoch."""
    test = by_rule.get(TEST_RULE)
    others = [
        f"{rule}: {signed(found['difference_pct'], 2)} [{signed(found['ci_low_pct'], 2)}, "
        f"{signed(found['ci_high_pct'], 2)}], p {_p_value(found['p_holm'])}"
        for rule, found in by_rule.items()
        if test and verdict(found) != verdict(test)
    ]
    return f"another verdict under another rule; {'; '.join(others)}" if others else ""


def _number(value: float | None) -> str:
    return "-" if value is None or isnan(value) else f"{value:.2f}"


def _accuracy(score: Mapping[Any, Any]) -> str:
    low, high = score["ci_low_pct"], score["ci_high_pct"]
    interval = "" if isnan(low) else f"{_SPACE}[{low:.1f},{_SPACE}{high:.1f}]"
    return f"{score['accuracy_pct']:.2f}{interval}"


def _difference(test: Mapping[Any, Any] | None) -> str:
    if test is None or isnan(test["p_holm"]):
        return "-"
    p_value = _p_value(test["p_holm"]).replace(" ", _SPACE)
    return f"{signed(test['difference_pct'], 2)}{_SPACE}({p_value})"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
