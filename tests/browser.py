"""Open a page in headless Chromium, driven by playwright. As a program, this file takes the picture docs/report.png.

python tests/browser.py runs/demo/world/seed-0/report.html docs/report.png
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Return the path of the browser: the variable CHROMIUM, else the first of NAMES on the PATH, else None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def opened(
    file: Path, width: int = 1280, height: int = 1000, scheme: str = "light"
) -> Iterator[tuple[object, list[str]]]:
    """Yield an open page and a list that collects its faults: console messages, errors, requests for other files."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # no sandbox: it needs rights that containers do not give, and the page is our own
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: wrong.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        yield page, wrong
        browser.close()


def picture(file: Path, out: Path) -> None:
    """Save a screenshot of the episodes tab: the first query, sampled, with the pointer on a token of the policy."""
    with opened(file.resolve(), 1200, height=1150) as (page, _):
        page.click("#tab-episodes")
        page.check("[value=sampled]")
        page.hover(".side:nth-child(2) .policy .token >> nth=2")
        out.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=out)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
