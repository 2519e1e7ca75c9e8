"""Tables as csv, Markdown and LaTeX files; equal tables give equal bytes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from cfnsr.models.registry import find
from cfnsr.params import Source
from cfnsr.ravdess import Protocol
from cfnsr.selection import RULES
from cfnsr.tables import DATA_LABELS, TEST_RULE, RunsByRow, extent, row_ceilings
from cfnsr.uncertainty import LEVEL

MINUS = "\N{MINUS SIGN}"
#: Columns that are aligned to the left.
_WORDS = ("System", "Protocol", "Fusion")


def caption(name: str, data: Source, runs: Mapping[Protocol, RunsByRow]) -> str:
    """What a printed table says above itself."""
    measured = "; ".join(extent(protocol, runs_by_row) for protocol, runs_by_row in runs.items())
    ceiling = (
        " Ceiling: the best possible accuracy from what a system sees and hears."
        if data == "synthetic"
        else ""
    )
    return (
        f"{name}. Measured on {DATA_LABELS[data]}: {measured}. Accuracy in % under each rule for "
        "choosing the epoch: mean ± standard deviation over folds and seeds [95 % interval, "
        "resampled by actor]. Paper: as printed there, on RAVDESS. UAR and the difference from "
        "CFN-SR are of the last epoch; p is of a paired test by actor with Holm's correction, and "
        f"a difference is bold where p < {LEVEL}.{ceiling}"
    )


def write(
    path: Path, table: pd.DataFrame, tests: pd.DataFrame, ceilings: pd.DataFrame, caption: str
) -> None:
    """Write `<path>.csv`, `.md` and `.tex`."""
    write_csv(table, path.with_suffix(".csv"))
    path.with_suffix(".md").write_text(to_markdown(table, tests, ceilings, caption), "utf-8")
    path.with_suffix(".tex").write_text(to_tex(table, tests, ceilings, caption), "utf-8")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Two decimals, but three or four digits of what may be small; nothing for a missing number."""
    small = {column: 3 for column in map(str, table) if column.startswith("p_")}
    small |= {column: 4 for column in ("forward_gflops", "ece") if column in table}
    as_text = {
        column: [_significant(value, n_digits) for value in table[column]]
        for column, n_digits in small.items()
    }
    table.assign(**as_text).to_csv(path, index=False, float_format="%.2f", lineterminator="\n")


def to_markdown(
    table: pd.DataFrame, tests: pd.DataFrame, ceilings: pd.DataFrame, caption: str
) -> str:
    """A table as GitHub and JupyterLab show it, one line a row and protocol; notes below."""
    header, lines, notes = _printed(table, tests, ceilings, _MARKDOWN)
    rule = [":--" if name in _WORDS else "--:" for name in header]
    grid = [f"| {' | '.join(line)} |" for line in (header, rule, *lines)]
    paragraphs = [_MARKDOWN.escape(caption), "\n".join(grid), *notes]
    return "\n\n".join(paragraphs) + "\n"


def to_tex(table: pd.DataFrame, tests: pd.DataFrame, ceilings: pd.DataFrame, caption: str) -> str:
    r"""A table for LaTeX with booktabs and graphicx, to be read by \input."""
    header, lines, notes = _printed(table, tests, ceilings, _TEX)
    head, *body = [f"{' & '.join(line)} \\\\" for line in (header, *lines)]
    text = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_TEX.escape(caption)}}}",
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


def _printed(
    table: pd.DataFrame, tests: pd.DataFrame, ceilings: pd.DataFrame, markup: _Markup
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, lines and notes; a rule has a column where it applies to any row."""
    rules = [rule for rule in RULES if rule in set(table["rule"])]
    has_ceilings = bool(ceilings["ceiling_pct"].notna().any())
    has_protocols = table["protocol"].nunique() > 1
    header = ["System", *["Protocol"] * has_protocols, "Fusion", "Parameters as trained"]
    header += ["Paper, M", "Paper, %", *rules]
    header += ["UAR, %", "vs CFN-SR, points (p)", *["Ceiling, %"] * has_ceilings]
    test_of = {(test["row"], test["protocol"]): test for test in tests.to_dict("records")}
    marks: dict[str, str] = {}
    notes, lines = [], []
    table = table.assign(ceiling=row_ceilings(table, ceilings))
    for _, group in table.groupby(["row", "protocol"], sort=False):
        first = group.iloc[0]
        name, protocol = str(first["row"]), str(first["protocol"])
        scores = {line["rule"]: line for line in group.to_dict("records")}
        if (note := find(name).note) and name not in marks:
            marks[name] = markup.raised.format(len(marks) + 1)
            notes.append(f"{marks[name]} {markup.escape(note)}.")
        label = markup.escape(first["label"]) + marks.get(name, "")
        test = test_of.get((name, protocol))
        difference = markup.escape(_difference(test))
        if test and test["p_holm"] < LEVEL:
            difference = markup.bold.format(difference)
        cells = [
            *[protocol] * has_protocols,
            first["fusion_stage"],
            f"{first['n_parameters']:,}",
            _number(first["paper_params_millions"]),
            _number(first["paper_accuracy_pct"]),
            *[_accuracy(scores.get(rule)) for rule in rules],
            _number(scores[TEST_RULE]["uar_pct"]),
        ]
        ceiling = [_number(first["ceiling"])] * has_ceilings
        lines.append([label, *map(markup.escape, cells), difference, *ceiling])
    return [markup.escape(name) for name in header], lines, notes


def _number(value: float | None) -> str:
    return "-" if value is None or isnan(value) else f"{value:.2f}"


def _accuracy(score: Mapping[Any, Any] | None) -> str:
    if score is None:
        return "-"
    sd = "" if isnan(score["sd_pct"]) else f" ± {score['sd_pct']:.2f}"
    low, high = score["ci_low_pct"], score["ci_high_pct"]
    interval = "" if isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{score['accuracy_pct']:.2f}{sd}{interval}"


def _difference(test: Mapping[Any, Any] | None) -> str:
    if test is None or isnan(test["p_holm"]):
        return "-"
    p = test["p_holm"]
    difference = f"{test['difference_pct']:+.2f}".replace("-", MINUS)
    return f"{difference} ({'< 0.001' if p < 0.001 else f'{p:.3f}'})"


def _significant(value: float, n_digits: int) -> str:
    return "" if isnan(value) else f"{value:.{n_digits}g}"
