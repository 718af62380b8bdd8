"""The page in a real Chromium: clicks, sliders, the keyboard, the dark, 380 pixels, and axe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import browser
from tests.support.serving_http import listening

expect = pytest.importorskip("playwright.sync_api").expect
SERIOUS = ("serious", "critical")
PICTURES = os.environ.get("PRELUDE_PICTURES")  # a folder: screenshots are left there


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(world_run, tmp_path_factory) -> Iterator[str]:
    with listening(world_run[1].path, tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(params=[1280, 380])
def page(chrome, address, request) -> Iterator[Any]:
    """A page at two widths, on which nothing may fail or be refused by the policy."""
    context = chrome.new_context(viewport={"width": request.param, "height": 800}, color_scheme="light")
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.address, page.width = address, request.param
    yield page
    context.close()
    assert wrong == []


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"service-{name}-{page.width}.png"))


def titles(page: Any, method: str) -> list[str]:
    return page.locator(f"section:has(#m-{method}) li a").all_inner_texts()


def test_what_e2p_changes_is_two_clicks_from_a_cold_page(page):
    page.get_by_role("link", name="u0", exact=True).click()
    assert page.get_by_role("heading", name="What user u0 would be shown").is_visible()
    assert len(titles(page, "no_context")) == len(titles(page, "e2p")) == 10
    assert titles(page, "no_context") != titles(page, "e2p")
    assert page.locator("section:has(#m-e2p) .mark").count() > 0
    picture(page, "user")


def settled(page: Any, value: str, name: str = "temperature") -> None:
    """Until the lists are those of a slider's value."""
    page.wait_for_url(re.compile(rf"{name}={value}(&|$)"), timeout=20_000)
    expect(page.locator("#part")).not_to_have_class(re.compile("busy"), timeout=20_000)


def test_a_slider_answers_live(page):
    page.goto(f"{page.address}/?user=u1")
    before = titles(page, "e2p")
    slider = page.get_by_label("Temperature")
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    settled(page, "1.2")
    expect(page.locator("section:has(#m-e2p)")).to_contain_text("p = 0")
    assert titles(page, "e2p") != before
    assert "temperature=1.2" in page.url
    page.get_by_label("Strength").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    settled(page, "0", "strength")
    page.reload()
    assert page.get_by_label("Strength").input_value() == "0"


def test_an_item_leads_to_its_reason_and_back(page):
    page.goto(f"{page.address}/?user=u1&temperature=1&exclude=i1,i3")
    first = titles(page, "e2p")[0]
    page.locator("section:has(#m-e2p) li a").first.click()
    assert page.get_by_role("heading", name=f"Why {first}", exact=True).is_visible()
    assert page.locator(".path li").count() == 3
    assert page.locator(".path meter").count() == 3
    assert page.get_by_text("excluded, or had before").is_visible()
    picture(page, "why")
    page.get_by_role("link", name="Back to the lists").click()
    assert titles(page, "e2p")[0] == first
    assert (
        page.get_by_label("Leave out").input_value() == "i1, i3"
        or page.get_by_label("Leave out").input_value() == "i1,i3"
    )


def test_the_tree_can_be_walked_to_an_item(page):
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="The IDs").click()
    page.goto(f"{page.address}/ids?user=u1")
    picture(page, "ids")
    cell = page.locator(".picture a").first
    name = cell.get_attribute("aria-label")
    cell.focus()
    page.keyboard.press("Enter")  # a cell leads to its node, whose picture begins with what is below it
    page.wait_for_url(re.compile("depth=1"))
    assert f"code {name.split(':')[0]}" in page.get_by_role("navigation", name="The way here").inner_text()
    page.go_back()
    for _ in range(6):
        branch = page.locator(".tree li a").first
        text = branch.inner_text()
        branch.click()
        if not text.startswith("Code"):
            break
    assert (
        page.get_by_role("heading", name="Why Title")
        .or_(page.get_by_role("heading", name=f"Why {text}"))
        .first.is_visible()
    )


def test_the_service_says_what_it_did(page):
    page.get_by_role("link", name="The service").click()
    assert page.get_by_role("rowheader", name="events stored", exact=True).is_visible()
    picture(page, "state")


def test_the_keyboard_reaches_everything(page):
    page.goto(f"{page.address}/?user=u1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    seen = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    assert {"user", "query", "temperature", "strength", "exclude", "allow", "Ask", "The IDs"} <= seen


def test_axe_finds_nothing_serious(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme="light" if page.width > 1000 else "dark")
    for path in (
        "/?user=u1&temperature=1",
        "/?user=nobody-knows",
        "/why?item=i4&user=u1&method=e2p",
        "/ids?user=u1",
        "/state",
        "/sign-in",
    ):
        page.goto(page.address + path)
        found = axe.run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS] == [], path
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not wide, f"{path} is wider than the window"
