"""The course site in a real browser: `make test-site` builds it, then opens every page in Chromium.

Pages are opened as files, as a reader does who downloaded them, and once from a server under a sub-path.
"""

import os
import re
import shutil
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from playwright.sync_api import sync_playwright

SITE = Path(__file__).resolve().parents[1] / "build" / "site"
PAGES = sorted(file.relative_to(SITE).as_posix() for file in SITE.rglob("*.html"))
PAGES = [name for name in PAGES if not name.startswith("_static/")]  # parts of the theme
if not PAGES:
    pytest.exit("There is no site: make site", returncode=1)
SESSIONS = [page for page in PAGES if re.fullmatch(r"notebooks/\d\d_\w+\.html", page)]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.exit("No Chromium was found: on Debian, apt install chromium", returncode=1)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A tab; at the end it must have said no error, and have asked for nothing but the site's own files."""
    context = browser.new_context(viewport=DESK, color_scheme="light")
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    local = ("file://", "http://127.0.0.1:", "data:", "blob:")
    page.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith(local) else None
    )
    page.on(
        "response", lambda answer: wrong.append(f"{answer.status}: {answer.url}") if not answer.ok else None
    )
    yield page
    context.close()
    assert not wrong


def address(name):
    return (SITE / name).as_uri()


def test_the_site_is_complete():
    assert len(SESSIONS) == 11
    assert {f"notebooks/solutions/{Path(name).name}" for name in SESSIONS} <= set(PAGES)
    assert {"index.html", "CLAIMS.html", "results.html", "benchmarks/README.html", "api/data.html"} <= set(
        PAGES
    )


def test_nothing_comes_from_another_host():
    elsewhere = r"""(?:src|srcset|poster)=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//"""
    for file in (file for kind in ("html", "css") for file in SITE.rglob(f"*.{kind}")):
        text = file.read_text(encoding="utf-8")
        assert not re.findall(rf"(?:{elsewhere}|url\(['\"]?(?:https?:)?//).{{0,80}}", text), file


def test_links_inside_the_site_lead_somewhere():
    texts = {SITE / name: (SITE / name).read_text(encoding="utf-8") for name in PAGES}
    ids = {
        file: {unescape(name) for name in re.findall(r'\bid="([^"]+)"', text)} for file, text in texts.items()
    }
    for file, text in texts.items():
        for link in map(unescape, re.findall(r'<a\b[^>]*\bhref="([^"]+)"', text)):
            if not re.match(r"[a-z]+:", link):
                path, anchor = urldefrag(unquote(link))
                target = (file.parent / path).resolve() if path else file
                assert target.is_file(), f"{file.name}: {link}"
                assert not anchor or target not in ids or anchor in ids[target], f"{file.name}: {link}"


@pytest.mark.parametrize("name", PAGES)
def test_page(page, name):
    page.goto(address(name))
    assert page.title() and page.locator("#main-content h1:visible").count() == 1
    pictures = page.eval_on_selector_all("img", "all => all.map(i => [i.src, i.alt, i.naturalWidth])")
    assert not [src for src, alt, width in pictures if len(alt) < 10 or not width]
    equations = page.eval_on_selector_all(
        "math", "all => all.filter(m => m.checkVisibility()).map(m => m.getBoundingClientRect().width)"
    )
    assert all(equations)
    folds = page.eval_on_selector_all("summary", "all => all.map(s => s.ariaLabel || s.textContent.trim())")
    assert all(folds), "a reader who does not see must hear what a fold is for"
    assert not page.locator("main p", has_text=re.compile(r"\\(frac|sum|lambda)|\$\$")).count()
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_equations_are_drawn(page):
    page.goto(address("notebooks/05_batch_normalization.html"))
    assert page.locator(".equation math").count() >= 3 and page.locator(".formula math").count() >= 15
    fraction = page.locator(".equation mfrac").first.bounding_box()
    assert fraction["height"] > 1.5 * 16  # two lines above each other, not in a row


def test_what_is_wide_scrolls_in_its_own_box(page):
    page.set_viewport_size(PHONE)
    page.goto(address("results.html"))
    box = page.locator(".pst-scrollable-table-container, article table").first
    box.evaluate("box => { box.scrollLeft = 50 }")
    assert box.evaluate("box => box.scrollLeft") == 50


def test_front_page_leads_to_every_session(page):
    page.goto(address("index.html"))
    links = page.locator(".session a")
    assert links.count() == page.locator(".session img").count() == len(SESSIONS)
    page.locator(".session img").last.click(force=True)  # the whole card is the link
    assert page.locator("#main-content h1:visible").inner_text().startswith("11 ")


def test_solutions_are_folded_away(page):
    page.goto(address(SESSIONS[0]))
    solution = page.locator(".bd-links a[href*='solutions/06']")
    assert solution.count() == 1 and not solution.is_visible()
    page.locator(".bd-links li:has(> a[href$='solutions.html']) > details > summary .toctree-toggle").click()
    solution.click()
    assert "olutions" in page.locator("#main-content h1:visible").inner_text()


def test_animation_plays(page):
    page.goto(address("notebooks/11_optimizers.html"))
    animation = page.get_by_alt_text("drawn step by step")
    animation.scroll_into_view_if_needed()
    frames = set()
    for _ in range(5):
        frames.add(animation.screenshot())
        page.wait_for_timeout(250)
    assert len(frames) > 1


def find_dropout(page):
    """Search by keyboard alone."""
    page.keyboard.press("Control+k")
    page.keyboard.type("dropout")
    page.keyboard.press("Enter")
    found = page.locator("#search-results a", has_text="06 Regularization").first
    found.click()
    assert page.locator("#main-content h1:visible").inner_text().startswith("06 Regularization")


def test_search_finds_a_session(page):
    page.goto(address("index.html"))
    find_dropout(page)


def test_dark_mode(page):
    page.goto(address("index.html"))

    def paper():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    def choose(mode):
        page.locator(".theme-switch-button:visible").click()
        page.locator(".theme-change-button:visible", has_text=mode).click()
        return paper()

    light, dark = choose("Light"), choose("Dark")
    assert light != dark
    page.goto(address(SESSIONS[0]))
    assert paper() == dark  # remembered
    assert choose("System") == light
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert paper() == dark


def test_keyboard(page):
    page.goto(address(SESSIONS[0]))
    page.keyboard.press("Tab")
    assert "main content" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")
    places = []
    for _ in range(12):
        page.keyboard.press("Tab")
        places.append(page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
    assert len(set(places)) > 6  # focus is caught nowhere


def test_menu_on_a_phone(page):
    page.set_viewport_size(PHONE)
    page.goto(address(SESSIONS[0]))
    entry = page.locator("#pst-primary-sidebar-modal a, #pst-primary-sidebar a", has_text="05 Batch").first
    assert not entry.is_visible()
    page.locator(".primary-toggle:visible").first.click()
    page.locator("a:visible", has_text="05 Batch normalization").first.click()
    assert page.locator("#main-content h1:visible").inner_text().startswith("05 ")


def test_under_a_sub_path_of_a_server(page, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "where").symlink_to(SITE, target_is_directory=True)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/some/where/index.html")
        page.locator(".session a").first.click()
        assert page.locator("#main-content h1:visible").inner_text().startswith("01 ")
        find_dropout(page)
        server.shutdown()
