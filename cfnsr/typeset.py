"""Tables as csv, Markdown and LaTeX files; equal tables give equal bytes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from cfnsr.models.registry import find
from cfnsr.params import Params
from cfnsr.selection import RULES
from cfnsr.tables import TEST_RULE, row_ceilings, setting
from cfnsr.uncertainty import LEVEL

MINUS = "\N{MINUS SIGN}"


def caption(name: str, params: Params, table: pd.DataFrame) -> str:
    """What a printed table says above itself."""
    n_clips = table["n_clips"].max() if len(table) else 0
    n_seeds = len(params.seeds)
    ceiling = (
        " Ceiling: the best possible accuracy from what a system sees and hears."
        if params.data == "synthetic"
        else ""
    )
    return (
        f"{name}. Measured on {setting(params)}: {n_clips} test clips, {n_seeds} "
        f"seed{'s' if n_seeds > 1 else ''} a fold. Accuracy in % under each rule for choosing "
        "the epoch: mean ± standard deviation over folds and seeds [95 % interval, resampled by "
        "actor]. Paper: as printed there, on RAVDESS. UAR and the difference from CFN-SR are of "
        "the last epoch; p is of a paired test by actor with Holm's correction, and a difference "
        f"is bold where p < {LEVEL}.{ceiling}"
    )


def write(
    path: Path, table: pd.DataFrame, tests: pd.DataFrame, ceilings: pd.DataFrame, caption: str
) -> None:
    """Write `<path>.csv`, `.md` and `.tex`."""
    write_csv(table, path.with_suffix(".csv"))
    path.with_suffix(".md").write_text(to_markdown(table, tests, ceilings, caption), "utf-8")
    path.with_suffix(".tex").write_text(to_tex(table, tests, ceilings, caption), "utf-8")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Two decimals; p values with three significant digits; nothing where a number is missing."""
    p_values = [column for column in map(str, table) if column.startswith("p_")]
    as_text = {column: [_significant(value) for value in table[column]] for column in p_values}
    table.assign(**as_text).to_csv(path, index=False, float_format="%.2f", lineterminator="\n")


def to_markdown(
    table: pd.DataFrame, tests: pd.DataFrame, ceilings: pd.DataFrame, caption: str
) -> str:
    """A table as GitHub and JupyterLab show it, one line a row; notes stand below."""
    header, lines, notes = _printed(table, tests, ceilings, _MARKDOWN)
    rule = [":--", ":--", *["--:"] * (len(header) - 2)]
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
        rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
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
    header = ["System", "Fusion", "Parameters as trained", "Paper, M", "Paper, %", *rules]
    header += ["UAR, %", "vs CFN-SR, points (p)", *["Ceiling, %"] * has_ceilings]
    test_of_row = {test["row"]: test for test in tests.to_dict("records")}
    lines, notes = [], list[str]()
    table = table.assign(ceiling=row_ceilings(table, ceilings))
    for name, group in table.groupby("row", sort=False):
        first = group.iloc[0]
        scores = {line["rule"]: line for line in group.to_dict("records")}
        label = markup.escape(first["label"])
        if note := find(str(name)).note:
            mark = markup.raised.format(len(notes) + 1)
            label += mark
            notes.append(f"{mark} {markup.escape(note)}.")
        test = test_of_row.get(str(name))
        difference = markup.escape(_difference(test))
        if test and test["p_holm"] < LEVEL:
            difference = markup.bold.format(difference)
        cells = [
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


def _significant(p_value: float) -> str:
    return "" if isnan(p_value) else f"{p_value:.3g}"
