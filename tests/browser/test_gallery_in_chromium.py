import re
from itertools import groupby

import pytest

from cfnsr.figures import gallery
from cfnsr.own_clip import PUBLISHED

pytestmark = pytest.mark.browser

LOAD_IMAGES = """() => Promise.all([...document.images].map(image => {
  image.loading = "eager";
  return image.decode().then(() => image.naturalWidth, () => `${image.src} is broken`);
}))"""
COLUMN = """([table, column]) => [...document.querySelectorAll("table")[table].tBodies[0].rows]
  .map(row => row.cells[column].innerText)"""


@pytest.fixture(scope="session")
def site(copy):
    return gallery.build(copy, PUBLISHED / "README.md").parent


@pytest.fixture
def open_page(browser):
    """Opens a page by its path, and fails at the end on errors and on requests to elsewhere."""
    found, contexts = [], []

    def open_page(path, width=1400, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: found.append(message.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("request", lambda request: found.append(request.url) if outside(request) else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not found


def outside(request):
    return not request.url.startswith(("file:", "data:"))


def test_every_page_loads_every_image_and_every_link_leads_to_a_file(site, open_page):
    for path in sorted(site.rglob("*.html")):
        page = open_page(path)
        assert all(isinstance(width, int) and width > 0 for width in page.evaluate(LOAD_IMAGES))
        for href in page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)"):
            if href.startswith("file:"):
                name, _, anchor = href.removeprefix("file://").partition("#")
                text = site.joinpath(name).read_bytes()
                assert not anchor or f'id="{anchor}"'.encode() in text, (path, href)
        page.close()


def test_equations_are_drawn(site, open_page):
    for path in sorted(site.glob("reanalysis/*_*.html")):
        page = open_page(path)
        page.wait_for_selector("mjx-container.display svg")
        text = page.eval_on_selector_all(".text_cell", "all => all.map(cell => cell.innerText)")
        assert "$" not in "".join(text)


def test_a_click_on_a_column_sorts_its_table_and_a_second_one_turns_it_round(site, open_page):
    page = open_page(site / "synthetic" / "index.html")
    header = page.locator("table").first.locator("th", has_text="best test epoch")
    column = header.evaluate("header => header.cellIndex")

    def numbers():
        """Of the rows above and below the line that divides them."""
        texts = page.evaluate(COLUMN, [0, column])
        groups = [list(found) for is_row, found in groupby(texts, bool) if is_row]
        return [[float(re.match(r"[\d.]+", text)[0]) for text in found] for found in groups]

    unsorted = numbers()
    assert len(unsorted) == 2
    header.get_by_role("button").click()
    assert numbers() == [sorted(group) for group in unsorted] != unsorted
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").click()
    assert numbers() == [sorted(group, reverse=True) for group in unsorted]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(
    site, open_page, width, scheme
):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # Of each notebook one, whatever the data.
    notebooks = {path.name: path for path in site.rglob("*_*.html")}
    for path in [*sorted(site.rglob("index.html")), *notebooks.values()]:
        page = open_page(path, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        # Preloading would fetch the style sheets by script, which no browser allows for files; what
        # is folded away has thousands of equal cells.
        options = {"resultTypes": ["violations"], "preload": False}
        found = axe.run(page, {"exclude": ["details"]}, options).response
        faults = [
            (fault["id"], fault["nodes"][0]["html"])
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert not faults, path
        page.close()
