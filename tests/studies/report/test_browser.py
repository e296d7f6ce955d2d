"""The page about the studies in a real browser: light and dark, narrow, by keyboard."""

import time

import browser
import numpy as np
import pytest
from study_tables import hostile, tables

from guide_ext.studies.registry import SECTIONS
from guide_ext.studies.report.page import write_report

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        browser.executable() is None, reason=f"none of {', '.join(browser.NAMES)} on PATH"
    ),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return {
        name: write_report(found, folder / name, SECTIONS)[0]
        for name, found in (("usual", tables()), ("hostile", hostile()))
    }


@pytest.fixture
def page(written, tmp_path):
    with browser.opener() as show:
        yield lambda which="usual", **options: show(written[which], **options)


def test_light_and_dark(page):
    pictures = {}
    for dark in (False, True):
        opened = page(dark=dark)
        pictures[dark, "top"] = browser.pixels(opened.screenshot())
        opened.run("document.querySelector('.figure').scrollIntoView()")
        pictures[dark, "figure"] = browser.pixels(opened.screenshot())
    for (dark, _), picture in pictures.items():
        assert picture.std() > 0.04  # not blank
        assert (np.median(picture) < 0.2) if dark else (np.median(picture) > 0.85)
        if dark:
            assert (picture.min(-1) > 0.97).mean() < 0.001  # no figure is left white


def test_nothing_fails_and_nothing_is_fetched(page):
    opened = page()
    assert opened.errors == []
    assert all(url.startswith(("file:", "data:")) for url in opened.requests)
    assert opened.run("[...document.images].every(i => i.complete && i.naturalWidth > 1000)")
    assert opened.run("[...document.images].every(i => i.alt.length > 60)")
    assert opened.run("getComputedStyle(document.querySelector('main')).maxWidth") == "1216px"


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_the_page_never_scrolls_sideways(page, width):
    opened = page(width=width)
    opened.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert not opened.run("document.documentElement.scrollWidth > innerWidth")


def test_everything_that_scrolls_is_reached_by_keyboard(page):
    opened = page(width=360)
    opened.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wanted = opened.run(
        "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).overflowX === 'auto').map((e, i) => { e.dataset.at = i; return i; })"
    )
    assert len(wanted) > 12
    seen = []
    for _ in range(120):
        opened.press("Tab")
        at = opened.run("document.activeElement.dataset.at ?? null")
        if at is not None:
            seen.append(int(at))
            if len(seen) == len(wanted):
                break
    assert seen == wanted
    opened.run("document.querySelector('[data-at=\"0\"]').focus()")
    opened.press("ArrowRight", "ArrowRight")
    end = time.monotonic() + 10
    while not opened.run("document.activeElement.scrollLeft") and time.monotonic() < end:
        time.sleep(0.02)  # it glides
    assert opened.run("document.activeElement.scrollLeft") > 0
    name = opened.run("getComputedStyle(document.activeElement).outlineStyle")
    assert name == "solid"


def test_folded_tables_open_by_keyboard(page):
    opened = page()
    opened.run("document.querySelector('summary').focus()")
    assert not opened.run("document.querySelector('details').open")
    opened.press("Space")
    assert opened.run("document.querySelector('details').open")


def test_hostile_texts_run_nothing(page):
    opened = page("hostile")
    assert opened.errors == []
    assert opened.run("document.scripts.length") == 0
    assert opened.run("document.querySelectorAll('[onmouseover], [onerror]').length") == 0
