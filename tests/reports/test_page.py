"""The page in a real browser: it paints, finds, sorts, opens cards, asks for nothing and fits its window."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import pytest

from phewas.reports import build
from phewas.schema import Definitions

_SPEC = importlib.util.spec_from_file_location("phewas_test_chromium", Path(__file__).with_name("chromium.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
chromium = sys.modules.setdefault(_SPEC.name, importlib.util.module_from_spec(_SPEC))
_SPEC.loader.exec_module(chromium)

pytestmark = pytest.mark.skipif(chromium.FOUND is None, reason="Chromium is not installed")

# Elements that reach beyond the window, other than inside something that scrolls by itself.
OUTSIDE = """Array.from(document.querySelectorAll("body *")).filter(e => {
  if (e.closest(".scroll, nav, dialog, svg, .skip, datalist, .js-plotly-plot, select") || !e.offsetParent) return false;
  const b = e.getBoundingClientRect();
  return b.width > 0 && (b.right > innerWidth + 1 || b.left < -1);
}).map(e => e.tagName + "#" + e.id + "." + e.className)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def page(phenome, further, make_run, about):
    results = phenome(60)
    tables = further(results, most=5)
    names = results["phenotype"].to_list()
    tables["definitions"] = Definitions.build([
        {"phenotype": names[0], "code_system": "ICD10CM", "code": code} for code in ("A00.0", "A00.1", "<b>B")])
    return build(make_run(results, **tables), meta=about, small_cell=11)


def centre(browser, selector):
    box = browser.js(f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center', "
                     "behavior: 'instant'}); const b = e.getBoundingClientRect(); "
                     "return [b.left + b.width / 2, b.top + b.height / 2]; })()")  # fmt: skip
    return box[0], box[1]


def hover(browser, selector):
    """Point at a mark until its numbers show; a busy browser takes the first move for none."""
    for nudge in range(100):
        x, y = centre(browser, selector)
        browser.mouse(x + nudge % 2, y)
        if browser.js("document.querySelector('#plot .hoverlayer').textContent.includes('AUC')"):
            return x, y
        time.sleep(0.1)
    raise AssertionError(f"nothing shows at {selector}")


def test_the_page_works(browser, page):
    browser.open(page, width=1440, height=900)
    js = browser.js
    assert js("document.querySelectorAll('#plot .points path').length") == js(
        "JSON.parse(document.getElementById('figure-data').textContent).points.length")
    assert js(OUTSIDE) == []
    assert js("document.documentElement.scrollWidth") <= 1440

    # Hover: the numbers of the phenotype under the mouse.
    hover(browser, "#plot .points path:nth-child(5)")

    # Search: the table and the figure.
    name = js("document.querySelector('#results tbody tr td').textContent")
    js("document.getElementById('search').focus()")
    browser.type(name)
    browser.until(f"document.getElementById('found').textContent.startsWith('{1}')")
    js("document.getElementById('find').focus()")
    browser.type(name)
    browser.until("document.getElementById('hits').textContent.includes('found')")
    js("document.getElementById('search').value = ''; document.getElementById('search')"
       ".dispatchEvent(new Event('input'))")

    # Sort: by cases, most first, then fewest first.
    for order in ("-", ""):
        js("document.querySelector('#results thead th:nth-child(5) button').click()")
        cases = js("Array.from(document.querySelectorAll('#results tbody tr')).map(r => Number(r.cells[4].dataset.v))")
        assert cases == sorted(cases, reverse=order == "-")

    # Filter: by q.
    js("document.getElementById('q').value = '0.05'; document.getElementById('q').dispatchEvent(new Event('input'))")
    shown = js("Array.from(document.querySelectorAll('#results tbody tr')).filter(r => !r.hidden)"
               ".map(r => Number(r.cells[5].dataset.v))")  # fmt: skip
    assert shown
    assert max(shown) < 0.05
    js("document.getElementById('q').value = ''; document.getElementById('q').dispatchEvent(new Event('input'))")

    # A card, by keyboard: Tab to the name, Enter opens it, Escape closes it.
    first = js("JSON.parse(document.getElementById('figure-data').textContent).points[0][0]")
    js(f"Array.from(document.querySelectorAll('#results tbody tr')).find(r => r.cells[0].textContent === '{first}')"
       ".querySelector('button.open').focus()")
    browser.key("Enter", 13, "\r")
    browser.until("document.getElementById('cards').open && !!document.querySelector('#card-codes .codes')")
    card = js("document.getElementById('cards').innerText")
    for words in (f"({first})", "<b>B A00.0 A00.1", "ICD10CM: 3 codes", "Within groups of patients", "40 to under 60",
                  "Case patients"):
        assert words in card, words
    assert js("document.querySelector('#card-roc .curve').getAttribute('d').startsWith('M0 1000L')")
    assert js("document.querySelector('#card-pr .curve').getAttribute('d').startsWith('M0 400V400H0')")
    assert js("document.querySelectorAll('#card-pr .chance').length") == 1
    browser.key("Escape", 27)
    browser.until("!document.getElementById('cards').open")

    # A card, by a click on its point.
    x, y = hover(browser, "#plot .points path:nth-child(9)")
    browser.mouse(x, y, click=True)
    browser.until("document.getElementById('cards').open")
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_a_phone_and_paper(browser, page):
    browser.open(page, width=390, height=800)
    assert browser.js(OUTSIDE) == []
    assert browser.js("document.documentElement.scrollWidth") <= 390
    browser.js("document.querySelector('button.open').click()")
    browser.until("document.getElementById('cards').open && document.getElementById('card-title').textContent")
    box = browser.js("(() => { const b = document.getElementById('cards').getBoundingClientRect();"
                     "return [b.left, b.right]; })()")  # fmt: skip
    assert box[0] >= 0
    assert box[1] <= 390
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.js("getComputedStyle(document.getElementById('still')).display") == "block"
    assert browser.js("getComputedStyle(document.getElementById('live')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
