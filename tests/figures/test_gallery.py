from pathlib import Path

import nbformat
import pytest
import yaml

from cfnsr.figures import gallery
from cfnsr.own_clip import PUBLISHED
from cfnsr.params import Params

REPOSITORY = Path(__file__).parents[2]
CARD = PUBLISHED / "README.md"
CITATION = {
    "title": "A companion",
    "message": "Cite it.",
    "authors": [{"name": "Its authors"}],
    "version": "1.0",
    "license": "MIT",
    "preferred-citation": {
        "type": "article",
        "title": "A paper",
        "authors": [{"family-names": "Fu", "given-names": "Ziwang"}],
        "journal": "A journal",
        "year": 2021,
        "url": "https://example.org",
    },
}
TABLE = """row,rule,protocol,accuracy_pct,ci_low_pct,ci_high_pct,n_clips
video,last epoch,paper,50,40,60,240
cfn_sr,best test epoch,paper,99,99,99,240
cfn_sr,last epoch,paper,71.25,65.5,77.75,240
"""


def notebook(*cells):
    """An executed notebook of Markdown (text) and code (whatever has a parenthesis)."""
    made = nbformat.v4.new_notebook()
    for i, source in enumerate(cells):
        new = nbformat.v4.new_code_cell if "(" in source else nbformat.v4.new_markdown_cell
        made.cells.append(new(source, id=f"cell-{i}"))
    return made


def saving(name):
    return f'style.save(figure, output_folder / "{name}")'


@pytest.fixture
def repository(tmp_path):
    """A repository of one data source with two figures and a table."""
    tables = tmp_path / "figures" / "synthetic" / "tables"
    tables.mkdir(parents=True)
    for name in ("accuracy", "alone"):
        (tables / f"{name}.png").write_bytes(b"")
    (tables / "table1.csv").write_text(TABLE)
    (tables / "table1.md").write_text(
        "Caption of $x$.\n\n| System | % |\n| :-- | --: |\n| A | 71 |\n"
    )
    (tables / "tests.csv").write_text("row,p\nvideo,0.0100\n")
    cells = ["# A claim\n\nProse.", saving("accuracy"), "*Figure 1. Of accuracy.*\n\nMore prose."]
    nbformat.write(notebook(*cells), tables / "03_tables.ipynb")
    runs = tmp_path / "figures" / "synthetic" / "predictions" / "paper"
    runs.mkdir(parents=True)
    (runs / "runs.csv").write_text("row,fold\ncfn_sr,1\n")
    (tmp_path / "README.md").write_text("# Title\n\nOne.\n\nTwo.\n\n```sh\nmake\n```\n\n## Next\n")
    (tmp_path / "CITATION.cff").write_text(yaml.safe_dump(CITATION))
    return tmp_path


def test_the_index_says_what_was_found_and_how_to_cite_it(repository):
    index = gallery.build(repository, CARD).read_text()
    assert "<p>One.</p>" in index
    assert "make" not in index
    assert "71.2 [65.5, 77.8]" in index
    assert "99" not in index
    assert "author = {Fu, Ziwang}" in index


def test_a_page_has_tables_captions_csv_as_it_stands_and_the_runs(repository):
    site = gallery.build(repository, CARD).parent
    page = (site / "synthetic" / "index.html").read_text()
    assert "A claim" in page
    assert 'href="tables/03_tables.html"' in page
    assert '<td style="text-align:right">71</td>' in page
    assert "<em>Figure 1. Of accuracy.</em>" in page
    assert "More prose" not in page
    assert "<td>0.0100</td>" in page
    assert "predictions/paper/runs.csv" in page
    assert "More prose" in (site / "synthetic" / "tables" / "03_tables.html").read_text()
    assert not list(site.rglob("*.ipynb"))


def test_equal_figures_give_equal_bytes_and_nothing_old_is_left(repository):
    site = gallery.build(repository, CARD).parent
    first = {path: path.read_bytes() for path in site.rglob("*.html")}
    (site / "old.html").touch()
    gallery.build(repository, CARD)
    assert {path: path.read_bytes() for path in site.rglob("*.html")} == first


def test_the_card_of_the_published_network_is_shown(repository):
    index = gallery.build(repository, CARD)
    assert "network.html" in index.read_text()
    card = CARD.read_text().splitlines()[0].removeprefix("# ")
    assert card in (index.parent / "network.html").read_text()


def test_a_caption_belongs_to_all_figures_saved_since_the_last_one(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").touch()
    cells = [
        saving("b"),
        "**No** caption",
        saving("a"),
        "* no caption",
        "*Both.*\n\nProse.",
        saving("no_picture"),
        "*Of none.*",
        saving("d"),
    ]
    found = gallery.captions(notebook(*cells).cells, tmp_path)
    assert found == [
        gallery.Shown(["b", "a"], "*Both.*"),
        gallery.Shown(["d"], ""),
        gallery.Shown(["c"], ""),
    ]


def test_every_saved_figure_of_this_repository_has_a_caption():
    for path in sorted(REPOSITORY.glob("figures/**/*.ipynb")):
        shown = gallery.captions(nbformat.read(path, as_version=4).cells, path.parent)
        assert shown, path
        assert all(each.caption for each in shown), path


def test_every_folder_of_figures_has_a_name_that_a_reader_can_choose():
    figures = REPOSITORY / "figures"
    folders = {path.parent for path in figures.rglob("*.png")}
    assert {folder.name for folder in folders} <= set(gallery.NAMES)
    assert {folder.parent.name for folder in folders} - {"figures"} <= set(gallery.NAMES)


def test_the_outcome_is_a_line_of_the_row_that_was_asked_for(repository):
    path = repository / "figures" / "synthetic" / "tables" / "metrics.json"
    path.write_text(
        '{"folds": "2", "system": "mmtm",'
        ' "last_epoch": 71.2, "last_epoch_low": 60, "last_epoch_high": 80.04}'
    )
    assert gallery.outcome(Params(), repository) == (
        "synthetic control, the paper's split, folds 2: MMTM 71.2 % [60.0, 80.0], last epoch"
    )
