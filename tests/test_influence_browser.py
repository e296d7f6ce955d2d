"""The page about Influence in a real browser: light and dark, by mouse, by keyboard, no script."""

import browser
import numpy as np
import pytest
from test_influence_report import TWO_GROUPS, hostile_record

from guide_ext import integration as guide
from guide_ext.experiments.influence_run import measure_prompt
from guide_ext.report.influence_page import InfluenceReport

pytestmark = pytest.mark.skipif(
    browser.executable() is None, reason=f"none of {', '.join(browser.NAMES)} on PATH"
)


@pytest.fixture(scope="module")
def record():
    model, tokenizer = guide.load_embedded()
    prompt = guide.as_prompt(tokenizer, TWO_GROUPS)
    return measure_prompt(model, tokenizer, prompt, delta=2.0, model_name="embedded")


@pytest.fixture
def page(record, tmp_path):
    def saved(which):
        return InfluenceReport(which or record).save(tmp_path / "report.html")

    with browser.opener(tmp_path) as show:
        yield lambda which=None, **options: show(saved(which), **options)


def focused(page):
    return page.run("document.activeElement.dataset.token ?? document.activeElement.id")


def test_light_and_dark(page):
    light = browser.pixels(page().screenshot())
    dark = browser.pixels(page(dark=True).screenshot())
    for picture in (light, dark):
        assert picture.std() > 0.05  # not blank
    assert np.median(light) > 0.85
    assert np.median(dark) < 0.2


def test_nothing_fails_and_nothing_is_fetched(page):
    opened = page()
    assert opened.errors == []
    assert all(url.startswith(("file:", "data:")) for url in opened.requests)
    assert not opened.run("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.parametrize("width", [360, 800])
def test_narrow_windows_do_not_scroll_sideways(page, width):
    assert not page(width=width).run("document.documentElement.scrollWidth > innerWidth")


def test_hostile_tokens_run_nothing(page, record):
    opened = page(hostile_record(record))
    assert opened.errors == []
    assert opened.run("document.scripts.length") == 2
    assert opened.run("document.querySelectorAll('[onmouseover], [onerror]').length") == 0


def test_walking_by_keyboard(page, record):
    opened = page()
    seen = []
    for _ in range(12):
        opened.press("Tab")
        seen.append(opened.run("document.activeElement.className || document.activeElement.id"))
        if "tok" in seen[-1]:
            break
    assert {"group", "layer", "show-numbers"} <= set(seen)
    prompt = len(record["prompt"]["tokens"])
    assert focused(opened) == str(prompt)  # the first token of the plain answer
    opened.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert focused(opened) == str(prompt + 1)
    for run, values in zip(
        ("plain", "guided"), (r["values"][0][-1] for r in record["runs"]), strict=True
    ):
        assert f"{values[prompt + 1]:.4f}" in opened.run(
            f"document.querySelector('#readout .{run}').textContent"
        )
    opened.press("ArrowDown")
    assert opened.run("document.querySelector('#layer-name').textContent") == "3 of 4"
    assert f"{record['runs'][0]['values'][0][3][prompt + 1]:.4f}" in opened.run(
        "document.activeElement.title"
    )
    opened.press("End")
    last = prompt + len(record["runs"][0]["tokens"]) - 1
    assert focused(opened) == str(last)
    assert "not measured" in opened.run("document.activeElement.getAttribute('aria-label')")
    assert opened.run("document.querySelectorAll('.text [tabindex=\"0\"]').length") == 4


def test_the_plots_are_sliders(page, record):
    opened = page()
    assert opened.run("document.querySelectorAll('.plot').length") == 3
    opened.run("document.querySelector('.plot').focus()")
    opened.press("ArrowRight", "ArrowRight")
    text = opened.run("document.activeElement.getAttribute('aria-valuetext')")
    assert opened.run("document.activeElement.getAttribute('aria-valuenow')") == "2"
    assert f"{record['runs'][1]['values'][0][-1][2]:.4f}" in text


def test_pointing_at_tokens_and_plots(page, record):
    opened = page(height=3000)
    for selector in ('.tok[data-run="1"][data-token="9"]', ".plot"):
        box = opened.run(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
            f"(document.querySelector('{selector}').getBoundingClientRect())"
        )
        opened.point(1, 1)
        opened.point(*box)
        assert "after layer 4" in opened.run("document.querySelector('#readout').textContent")
    here = opened.run("[...document.querySelectorAll('.here')].map(t => t.dataset.token)")
    assert len(set(here)) == 1


def test_another_group(page, record):
    opened = page()
    opened.run(
        "(g => { g.value = '1'; g.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#group'))"
    )
    place = record["prompt"]["groups"]["place"].index(True)
    token = f"""document.querySelector('.tok[data-run="1"][data-token="{place}"]')"""
    assert opened.run(f"{token}.classList.contains('in')")
    assert f"{record['runs'][1]['values'][1][-1][place]:.4f}" in opened.run(f"{token}.title")
    shown = opened.run("[...document.images].filter(i => !i.hidden).map(i => i.dataset.group)")
    assert shown == ["1", "1"]


def test_numbers_under_the_tokens(page):
    opened = page()
    before = browser.pixels(opened.screenshot())
    opened.run("document.querySelector('#show-numbers').focus()")
    opened.press("Space")
    assert opened.run("document.querySelector('#show-numbers').checked")
    assert (browser.pixels(opened.screenshot()) != before).any()


def test_colours_without_script(page):
    opened = page(script=False)
    colours = {
        tuple(row)
        for row in browser.pixels(opened.screenshot(whole=True)).reshape(-1, 3).round(2).tolist()
    }
    assert any(red > 0.9 and green < 0.75 and blue < 0.4 for red, green, blue in colours)
    assert opened.run("document.querySelector('#group').getClientRects().length") == 0
