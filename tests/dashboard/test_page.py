"""The page in a real browser: what it shows of a store as things happen to it, and that it can be read on any screen."""

from __future__ import annotations

import json
import os
import signal

import browser
import pytest

from raykv import sim
from raykv.cli import dashboard_command
from raykv.dashboard import Dashboard, Feed, Shown
from raykv.dashboard import feed as feed_module

needs_chromium = pytest.mark.skipif(
    browser.CHROMIUM is None,
    reason="no chromium, chromium-browser or google-chrome is installed: the page is not tested",
)
THREE_UP = "document.querySelectorAll('#nodes td.up').length === 3"


def opened(tab, dashboard, **shown_as):
    """Open the page and give the token."""
    page = tab.page(dashboard.url, **shown_as)
    page.wait("document.querySelector('input[name=token]')")
    assert not page.evaluate("!!document.getElementById('nodes')"), "nothing without the token"
    page.evaluate(
        f"document.querySelector('input[name=token]').value = {json.dumps(dashboard.token)}; document.forms[0].submit()"
    )
    page.wait("document.querySelectorAll('#nodes tbody tr').length")
    return page


@pytest.mark.ray
@needs_chromium
def test_the_page_follows_a_death_and_a_move(start_store, store_name, tmp_path, monkeypatch):
    monkeypatch.setattr(feed_module, "EVERY_S", 0.3)
    store = start_store(nodes=3, partitions=16)
    store.put_many({f"k{number}": number for number in range(100)})
    dashboard = Dashboard(lambda name: dashboard_command._shown(name, admin=False), lambda: [store_name])
    with dashboard, browser.Browser(tmp_path / "profile") as tab:
        page = opened(tab, dashboard)
        page.wait(THREE_UP, "three nodes are up")
        assert page.evaluate("document.getElementById('store').textContent") == f"store {store_name}"
        page.wait("document.querySelector('#wheel svg')")

        victim = store.status()["nodes"][1]
        os.kill(victim["pid"], signal.SIGKILL)
        down, up = (
            event(kind, f"node {victim['node_id']} is {state}") for kind, state in (("bad", "down"), ("good", "up"))
        )
        page.wait(down, "the death is shown")
        page.wait(up, "and the return")
        page.wait(THREE_UP)
        assert page.evaluate(f"{down}.textContent.split(': ')[1].length > 5"), "with its cause"
        assert page.evaluate(f"{up}.compareDocumentPosition({down}) & 4"), "the latest event stands first"

        store.rebalance("pause")
        store.add_node(wait=False)
        page.wait("!document.getElementById('moves').hidden", "moves are shown")
        shown = page.evaluate("document.getElementById('moving').textContent")
        assert "still to move, paused: node n4 has joined on host" in shown
        store.rebalance("resume")
        page.wait("document.getElementById('moves').hidden", "until they are over")
        page.wait(
            "[...document.querySelectorAll('#events .good')].some((e) => e.textContent === 'all partitions have moved')"
        )
        page.wait("document.querySelectorAll('#nodes td.up').length === 4")
        assert tab.errors == []


@needs_chromium
def test_the_page_fits_every_screen_and_is_used_by_keyboard(tmp_path):
    with sim.start(seed=7, nodes=5) as world:
        store = world.connect()
        store.put_many({f"{'long key ' * 12}{number}": number for number in range(40)})
        world.sleep(12)
        status, ring = store.status(), store.ring()
    status["nodes"][0].update(state="down", storage=None, cause="a cause that takes " + "many words " * 20)

    def open_store(name):
        return Shown(Feed(lambda: {**status, "name": name}, lambda: ring), lambda *_: "", {"repair": lambda: "done"})

    names = [f"store-{number}" for number in range(12)]
    with Dashboard(open_store, lambda: names) as dashboard, browser.Browser(tmp_path / "profile") as tab:
        page = opened(tab, dashboard, width=390, height=844)
        for width, dark in ((390, True), (390, False), (768, False), (1280, True), (2560, False)):
            page.show_as(width, 900, dark=dark)
            page.wait(
                "document.documentElement.scrollWidth <= document.documentElement.clientWidth", f"fits {width} pixels"
            )
            ink, paper = (
                page.evaluate(f"getComputedStyle(document.body).{each}") for each in ("color", "backgroundColor")
            )
            assert contrast(ink, paper) > 7
            for kind in ("up", "down"):
                colour = page.evaluate(f"getComputedStyle(document.querySelector('#nodes .{kind}')).color")
                assert contrast(colour, paper) > 4.5, (kind, dark)
        page.wait("document.querySelectorAll('#stores a').length === 12")
        assert page.evaluate("document.querySelector('#stores a[aria-current]').textContent") == "store-0"
        page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(25):
            for kind in ("keyDown", "keyUp"):
                page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(f"document.activeElement === document.body || {outline} === 'solid'"), (
                "the focus is seen"
            )
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert {*names, "events", "findings", "bucket", "key", "explain", "repair"} <= reached
        assert tab.errors == []


def event(kind, what):
    """Return JavaScript for the line of an event."""
    words = json.dumps(what)
    return (
        f"[...document.querySelectorAll('#events li')].find((e) => e.querySelector('.{kind}')?.textContent === {words})"
    )


def contrast(one, other):
    """Return the contrast ratio of two CSS colours, 1 to 21, by the WCAG."""

    def luminance(colour):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
