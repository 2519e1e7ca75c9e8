"""Build the gallery from what git has: tables, figures, captions in executed notebooks.

One page per folder of `figures/`, one per executed notebook, and an index. Equal input gives equal
bytes.
"""

import csv
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import bokeh
import jinja2
import nbformat
import pandas as pd
import yaml
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from cfnsr.evaluation.tables import DATA_LABELS, PROTOCOL_LABELS, TEST_RULE, metric_key
from cfnsr.models.registry import REFERENCE, find
from cfnsr.params import Params

TEMPLATES = Path(__file__).parent / "templates"
#: Bokeh brings a MathJax along, so that equations need no network.
MATHJAX = ("bokeh.min.js", "bokeh-mathjax.min.js")
#: Longer csv files are linked, not shown.
MAX_LINES = 250
#: What a folder of figures is called where a reader chooses.
NAMES = {
    **{data: label[0].upper() + label[1:] for data, label in DATA_LABELS.items()},
    "gains": "What the blocks add",
    "reanalysis": "The paper's own numbers",
    "tables": "Tables and results",
    "attention": "Attention",
    "architecture": "Architecture",
    "switches": "Paper against release",
    "hybrid": "The hybrid deep model",
}
_SAVED = re.compile(r'output_folder / "(\w+)"')
_CAPTION = re.compile(r"\*(?![ *])")


@dataclass(frozen=True)
class Shown:
    """Figures that share a caption: names without suffix, and the caption's Markdown."""

    names: list[str]
    caption: str


@dataclass(frozen=True)
class Section:
    """One folder of figures that a notebook or command filled, or a page with its `sections`."""

    folder: Path
    title: str
    notebook: Path | None = None
    shown: Sequence[Shown] = ()
    sections: Sequence["Section"] = ()

    @property
    def name(self) -> str:
        return NAMES.get(self.folder.name, self.title)


def build(repository: Path, card: Path) -> Path:
    """Write `build/site` anew, with the published network's card; returns its index.html."""
    output, figures = repository / "build" / "site", repository / "figures"
    shutil.rmtree(output, ignore_errors=True)  # DVC may have linked it to its cache
    shutil.copytree(figures, output, ignore=shutil.ignore_patterns("*.ipynb"))
    _write_static(output / "static")
    # Data sources first.
    folders = sorted(figures.iterdir(), key=lambda path: (path.name not in DATA_LABELS, path.name))
    pages = [_page(folder) for folder in folders if folder.is_dir()]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"markdown": markdown, "csv_lines": csv_lines}
    environment.globals |= {
        "pages": pages,
        "protocols": PROTOCOL_LABELS,
        "reference": find(REFERENCE).label,
        "rule": TEST_RULE,
    }
    # Pictures are embedded.
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True)

    def write(name: str, template: str, title: str, **values: Any) -> Path:
        path = output / name
        root = "../" * name.count("/")
        html = environment.get_template(template).render(values, title=title, root=root)
        path.write_text(html + "\n", "utf-8")
        return path

    for page in pages:
        write(f"{page.folder.name}/index.html", "page.html", page.title, page=page)
        for section in page.sections:
            if section.notebook:
                name = section.notebook.relative_to(figures).with_suffix(".html").as_posix()
                body, _ = exporter.from_filename(str(section.notebook))
                write(name, "notebook.html", section.title, body=Markup(body), page=page)
    write("network.html", "card.html", "The published network", card=card.read_text("utf-8"))
    # Of the README, what stands between its title and its first figure, code or heading.
    paragraphs = (repository / "README.md").read_text("utf-8").split("\n\n")[1:]
    lead = takewhile(lambda text: not text.startswith(("!", "`", "#")), paragraphs)
    return write(
        "index.html",
        "index.html",
        "CFN-SR, reproduced",
        lead="\n\n".join(lead),
        headlines=[line for page in pages for line in headlines(page)],
        citation=yaml.safe_load((repository / "CITATION.cff").read_text("utf-8")),
    )


def headlines(page: Section) -> Iterator[dict[Any, Any]]:
    """CFN-SR after the last epoch, a line per protocol; none where its row is missing."""
    path = page.folder / "tables" / "table1.csv"
    if not path.is_file():
        return
    table = pd.read_csv(path)
    table = table[table["rule"] == TEST_RULE]
    for line in table[table["row"] == REFERENCE].to_dict("records"):
        n_systems = int((table["protocol"] == line["protocol"]).sum())
        yield {**line, "page": page, "n_systems": n_systems}


def outcome(settings: Params, repository: Path) -> str:
    """What the metrics of params.yaml's data say, in a line."""
    path = repository / "figures" / settings.data / "tables" / "metrics.json"
    found = json.loads(path.read_text())
    split = PROTOCOL_LABELS[settings.protocol]
    about = f"{DATA_LABELS[settings.data]}, {split}, folds {found['folds']}"
    label = find(found["system"]).label
    value, low, high = (found[metric_key(TEST_RULE, end)] for end in ("", "low", "high"))
    return f"{about}: {label} {value:.1f} % [{low:.1f}, {high:.1f}], {TEST_RULE}"


def captions(cells: list[nbformat.NotebookNode], folder: Path) -> list[Shown]:
    """The figures of a folder: those that cells save, each with the caption below; then others."""
    found: list[Shown] = []
    left = {path.stem for path in folder.glob("*.png")}
    waiting: list[str] = []
    for cell in cells:
        if cell.cell_type == "code":
            saved = [name for name in _SAVED.findall(cell.source) if name in left]
            waiting += saved
            left -= set(saved)
        elif waiting and _CAPTION.match(cell.source):
            found.append(Shown(waiting, cell.source.split("\n\n")[0]))
            waiting = []
    return found + [Shown([name], "") for name in [*waiting, *sorted(left)]]


def markdown(text: str) -> Markup:
    """Markdown with tables and raised notes, as JupyterLab shows it."""
    renderer = IPythonRenderer(escape=False, exclude_anchor_links=True)
    return Markup(MarkdownWithMath(renderer=renderer).render(text))


def csv_lines(path: Path) -> list[list[str]]:
    """Header and lines of a csv file as they stand there; none if it is empty or long."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    return [header, *lines] if 0 < len(lines) <= MAX_LINES else []


def _page(folder: Path) -> Section:
    # The tables come before what explains them.
    below = sorted(folder.iterdir(), key=lambda path: (path.name != "tables", path.name))
    sections = [_section(path) for path in [folder, *below] if any(path.glob("*.png"))]
    data = folder.name in DATA_LABELS
    title = NAMES[folder.name] if data else sections[0].title
    return Section(folder, title, sections=sections)


def _section(folder: Path) -> Section:
    for path in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        return Section(folder, title, path, captions(notebook.cells, folder))
    return Section(folder, NAMES.get(folder.name, folder.name), shown=captions([], folder))


def _write_static(folder: Path) -> None:
    folder.mkdir()
    for name in ("style.css", "page.js"):
        shutil.copy(TEMPLATES / name, folder)
    for name in MATHJAX:
        shutil.copy(Path(bokeh.__file__).parent / "server" / "static" / "js" / name, folder)
    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    (folder / "code.css").write_text(
        f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    )
