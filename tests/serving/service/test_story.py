"""The story of docs/service.md and the README: the server is started by its command, and the calls are made as they are written."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import httpx

from tests.support.documents import blocks
from tests.support.paths import ROOT
from tests.support.service_process import running

CALLED = {"296": "i4", "593": "i6", '"42"': '"u1"'}  # items and users of the small run


def calls(page: str) -> list[list[str]]:
    """The words of each curl of a page."""
    shell = [block for block in blocks(page) if block.language == "sh"]
    return [words for block in shell for words in block.commands() if words[0] == "curl"]


def made(url: str, words: list[str]) -> httpx.Response:
    """A call as curl makes it."""
    verb, body, headers, target = None, None, {}, ""
    rest = iter(words[1:])
    for word in rest:
        match word:
            case "-s":
                pass
            case "-X":
                verb = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            case "-d":
                body = next(rest)
            case _:
                target = word
    text = body
    for name, ours in CALLED.items():
        text = text.replace(name, ours) if text else text
        target = target.replace(name, ours)
    return httpx.request(
        verb or ("POST" if body else "GET"),
        target.replace("localhost:8000", url),
        content=text,
        headers=headers,
        timeout=60,
    )


def reason(url: str) -> str:
    """The page that the story names, and from there the reason of the first title."""
    (address,) = re.findall(
        r"http://localhost:8000(/\?user=\S+)", Path(ROOT, "docs/service.md").read_text("utf-8")
    )
    page = httpx.get(url + address, timeout=60).text
    link = html.unescape(re.findall(r'href="(/why\?[^"]*)"', page)[0])
    return httpx.get(url + link, timeout=60).text


def test_the_commands_of_the_story_are_there():
    shell = [block for block in blocks("docs/service.md") if block.language == "sh"]
    assert ["prelude", "serve", "runs/demo"] in [words for block in shell for words in block.commands()]
    assert len(calls("docs/service.md")) == 6
    assert len(calls("README.md")) == 1


def test_the_story_is_as_it_is_told(small_run, tmp_path):
    with running(small_run[1].path, tmp_path) as server:
        answers: list[Any] = []
        for words in calls("docs/service.md"):
            if "DELETE" in words:
                why = reason(server.url)
            response = made(server.url, words)
            assert response.is_success, (words, response.text)
            answers.append(response.json() if response.content else None)
        cold, taken, warm, person, item, gone = answers
        assert cold["path"].startswith("cold start")
        assert taken["stored"] == 2
        assert warm["path"] == "personalized"
        assert all(0 < one["probability"] <= 1 for one in warm["items"])
        assert [one["item_id"] for one in warm["items"]] != [one["item_id"] for one in cold["items"]]
        assert "<h1>Why " in why
        assert "user somebody new" in why
        assert "The path of its codes" in why
        assert person["events"] == 2
        assert person["shown"] == 2
        assert item["item_id"] == "i4"
        assert gone is None
        assert b"somebody new" not in b"".join(path.read_bytes() for path in Path(tmp_path).iterdir())
        (words,) = calls("README.md")
        assert len(made(server.url, words).json()["items"]) == 5
        assert server.stop() in (0, -15)
