"""The page about Influence in a real browser: light and dark, by mouse, by keyboard, no script."""

import copy
import time

import browser
import numpy as np
import pytest
from pages import hostile_record

from guide_ext.report.influence.page import InfluenceReport

pytest_plugins = ["influence_record"]
pytestmark = pytest.mark.skipif(
    browser.executable() is None, reason=f"none of {', '.join(browser.NAMES)} on PATH"
)


@pytest.fixture
def page(record, tmp_path):
    def saved(which):
        return InfluenceReport(which or record).save(tmp_path / "report.html")

    with browser.opener() as show:
        yield lambda which=None, **options: show(saved(which), **options)


@pytest.fixture(scope="module")
def faint(record):
    """Return the record with values as of large models: 0.5 somewhere, 0.01 to 0.04 at the end.

    The guided run has more everywhere but in its last tokens of the prompt, and its answer is
    another one from the third token on.
    """
    found = copy.deepcopy(record)
    prompt = found["prompt"]
    prompt["groups"]["rule"] = [1 <= at < 7 for at in range(len(prompt["tokens"]))]
    end = len(prompt["tokens"]) - 3
    for number, run in enumerate(found["runs"]):
        for group in run["values"]:
            for level, values in enumerate(group[1:], 1):
                for at, value in enumerate(values):
                    if value is not None:
                        size = 0.01 + 0.03 * (at % 7) / 6 + 0.005 * number * (1 if at < end else -1)
                        values[at] = round(size * (1 if level > 2 else 12), 6)
        for at, token in enumerate(run["tokens"]):
            token["text"] = f" {at if at < 2 else number}"
    return found


def focused(page):
    return page.run("document.activeElement.dataset.token ?? document.activeElement.id")


def shown(page, selector):
    """Return how many elements are seen."""
    return page.run(
        f"[...document.querySelectorAll('{selector}')].filter(e => e.checkVisibility()).length"
    )


def strengths(page, run):
    """Return how strong the colour of every token outside the group is, and its sign."""
    return page.run(
        f"[...document.querySelectorAll('.text .tok[data-run=\"{run}\"]:not(.in)')].map(e => "
        "e.style.getPropertyValue('--v') * (e.classList.contains('less') ? -1 : 1))"
    )


def tab_to(page, name):
    for _ in range(12):
        page.press("Tab")
        if page.run("document.activeElement.id") == name:
            return
    raise AssertionError(f"{name} is not reached by Tab")


def until(page, expression):
    """Wait for what a browser does with its next frame."""
    assert any(page.run(expression) or time.sleep(0.02) for _ in range(500))


def text_of(page, selector):
    return page.run(f"document.querySelector('{selector}').textContent")


@pytest.mark.long
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
    assert shown(opened, ".plot") == 3
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
    images = opened.run("[...document.images].filter(i => !i.hidden).map(i => i.dataset.group)")
    assert images == ["1", "1", "1"]


def test_numbers_under_the_tokens(page):
    opened = page()
    before = browser.pixels(opened.screenshot())
    opened.run("document.querySelector('#show-numbers').focus()")
    opened.press("Space")
    assert opened.run("document.querySelector('#show-numbers').checked")
    assert (browser.pixels(opened.screenshot()) != before).any()


@pytest.mark.long
def test_colours_without_script(page):
    opened = page(script=False)
    colours = {
        tuple(row)
        for row in browser.pixels(opened.screenshot(whole=True)).reshape(-1, 3).round(2).tolist()
    }
    assert any(red > 0.9 and green < 0.75 and blue < 0.4 for red, green, blue in colours)
    assert opened.run("document.querySelector('#group').getClientRects().length") == 0


def test_colours_fill_the_scale_of_what_is_shown(page, faint):
    opened = page(faint)
    for run in range(2):
        assert max(strengths(opened, run)) >= 0.8
    assert text_of(opened, "#top") == text_of(opened, "#curve-top") == "0.05"
    tab_to(opened, "one-scale")
    opened.press("Space")
    assert text_of(opened, "#top") == text_of(opened, "#curve-top") == "0.6"
    for run in range(2):
        assert max(strengths(opened, run)) < 0.1
    opened.press("Space")
    opened.run("document.querySelector('#layer').focus()")
    opened.press("ArrowLeft", "ArrowLeft")
    assert text_of(opened, "#layer-name") == "2 of 4"
    assert text_of(opened, "#top") == "0.6"
    assert max(strengths(opened, 1)) > 0.85


def test_weak_layers_of_heat_maps_are_seen(page, faint):
    opened = page(faint, height=3000)
    box = opened.run(
        "(({x, y, width, height}) => [x, y, width, height])"
        "(document.querySelector('.map.guided .plot').getBoundingClientRect())"
    )
    x, y, width, height = map(round, box)
    last = browser.pixels(opened.screenshot())[y + 6 : y + round(height / 5) - 6, x : x + width]
    assert last.mean(axis=(0, 1))[2] < 0.85  # less blue than the card is: orange


def test_guided_minus_plain_by_keyboard(page, faint):
    opened = page(faint)
    assert shown(opened, ".text-run") == 4
    assert shown(opened, ".only-difference") == 0
    tab_to(opened, "view-values")
    opened.press("ArrowRight")
    assert focused(opened) == "view-difference"
    assert shown(opened, ".text-run.guided") == shown(opened, ".text-run") == 2
    assert (shown(opened, ".map.difference .plot"), shown(opened, ".map .plot")) == (1, 1)
    assert (text_of(opened, "#bottom"), text_of(opened, "#top")) == ("−0.005", "+0.005")
    prompt = len(faint["prompt"]["tokens"])
    found = dict(zip(opened.run(
        "[...document.querySelectorAll('.text .tok[data-run=\"1\"]:not(.in)')]"
        ".map(e => +e.dataset.token)"), strengths(opened, 1), strict=True))  # fmt: skip
    for token, strength in found.items():
        sign = -1 if token >= prompt - 3 else 1
        assert strength == (sign if token < prompt + 2 else 0), token
    titles = [
        opened.run(f'document.querySelector(\'.tok[data-run="1"][data-token="{at}"]\').title')
        for at in (prompt - 5, prompt - 1, prompt + 2)
    ]
    assert titles[0].endswith(": +0.0050")
    assert titles[1].endswith(": −0.0050")
    assert titles[2].endswith(": not compared")
    assert "the first 2 of the answers" in text_of(opened, "p.only-difference")
    labels = opened.run("[...document.querySelectorAll('.text')].map(e => e.ariaLabel)")
    assert labels == [f"{part}, guided − plain" for part in ("answer",) * 2 + ("prompt",) * 2]
    points = opened.run("document.querySelector('#difference').getAttribute('d')")
    assert points.count("L") == prompt + 1
    assert {point.split(" ")[1] for point in points[1:].split("L")} == {"0.00", "200.00"}
    opened.press("ArrowLeft")
    assert shown(opened, ".text-run") == 4
    assert opened.run("document.querySelectorAll('.less').length") == 1  # of the explanation


def test_less_is_told_without_colour(page, faint):
    opened = page(faint)
    opened.run("document.querySelector('#view-difference').click()")
    style = "getComputedStyle(document.querySelector('.text .less')).backgroundImage"
    assert "repeating-linear-gradient" in opened.run(style)


def test_what_cannot_be_compared_offers_no_difference(page, record):
    alone = copy.deepcopy(record)
    del alone["runs"][1]
    opened = page(alone, width=375)
    assert opened.errors == []
    assert opened.run("document.querySelectorAll('.views, .map.difference').length") == 0
    assert shown(opened, ".text-run.plain") == 2
    opened.run("document.querySelector('.tok').focus()")
    opened.press("ArrowDown")
    assert text_of(opened, "#layer-name") == "3 of 4"


def test_neighbours_share_one_outline(page, faint):
    opened = page(faint)
    inside = opened.run(
        "[...document.querySelectorAll('.text .tok.in[data-run=\"0\"]')]"
        ".map(e => [getComputedStyle(e).boxShadow.split('px inset').length - 1, e.className])"
    )
    assert [shadows for shadows, _ in inside] == [3, 2, 2, 2, 2, 3]
    assert "first" in inside[0][1]
    assert "last" in inside[-1][1]
    opened.run(
        "(g => { g.value = '1'; g.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#group'))"
    )
    prompt = faint["prompt"]["groups"]["place"]
    assert opened.run("document.querySelectorAll('.text .in[data-run=\"0\"]').length") == sum(
        prompt
    )
    assert opened.run("document.querySelectorAll('.text .first[data-run=\"0\"]').length") == 1
    assert opened.run("document.querySelectorAll('.text .last[data-run=\"0\"]').length") == 1


@pytest.mark.parametrize("script", [True, False])
def test_a_phone_has_a_switch_and_no_stack(page, faint, script):
    opened = page(faint, width=375, height=700, script=script)
    assert not opened.run("document.documentElement.scrollWidth > innerWidth")
    assert shown(opened, ".text-run") == shown(opened, ".text-run.guided") == 2
    tab_to(opened, "view-values")
    opened.press("ArrowLeft")
    assert focused(opened) == "view-plain"
    assert shown(opened, ".text-run") == shown(opened, ".text-run.plain") == 2
    assert shown(opened, ".map.plain .plot") == shown(opened, ".map .plot") == 1
    opened.press("ArrowRight", "ArrowRight")
    assert focused(opened) == ("view-difference" if script else "view-plain")  # round, without it
    if script:
        assert shown(opened, ".map.difference .plot") == shown(opened, ".map .plot") == 1
        assert not opened.run("document.documentElement.scrollWidth > innerWidth")
        opened.press("ArrowRight")
        assert focused(opened) == "view-plain"
        opened.resize(1280, 800)
        assert shown(opened, ".text-run") == 4
        until(opened, "document.querySelector('#view-values').checked")


def test_the_switch_stays_in_sight(page, faint):
    opened = page(faint, width=375, height=700)
    opened.run("scrollTo(0, document.querySelector('#places').offsetTop)")
    top = opened.run("document.querySelector('.views').getBoundingClientRect().top")
    assert top == 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_on_every_colour(page, dark):
    """Contrast of at least 4.5, as WCAG 2 asks for text of this size."""
    opened = page(dark=dark)
    names = ("--card", "--ink", "--heat", "--cool", "--strongest")
    card, ink, heat, cool, strongest = (
        opened.run(f"getComputedStyle(document.documentElement).getPropertyValue('{name}').trim()")
        for name in names
    )

    def rgb(text):
        text = "".join(2 * c for c in text[1:]) if len(text) == 4 else text[1:]
        return np.array([int(text[at : at + 2], 16) for at in (0, 2, 4)])

    def light(color):
        share = color / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for color in (heat, cool):
        full = np.array([float(part) for part in color.split(",")])
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
            alpha = strength * float(strongest)
            ends = sorted([light(alpha * full + (1 - alpha) * rgb(card)), light(rgb(ink))])
            assert (ends[1] + 0.05) / (ends[0] + 0.05) >= 4.5
