"""A page of Phoenix's, photographed in headless Chromium once it shows what it should.

    python photograph.py BROWSER URL PICTURE TEXT...

Runs in an environment that has Playwright. The picture is of the trace alone, without what is around it.
"""

import sys

from playwright.sync_api import expect, sync_playwright  # type: ignore[import-not-found,unused-ignore]

LOADING = 60_000
"""Milliseconds that the page may take to show the trace."""
WINDOW = {"width": 1760, "height": 1800}
"""Pixels. The trace gets three quarters of the width; what it doesn't need of the height is cut off."""
MARGIN = 10
"""Pixels below the last that is shown."""
OPTIONS = [
    "--disable-gpu",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # it asks nobody else for anything
]
LIGHT = "localStorage.setItem('arize-phoenix-theme', 'light')"


def photograph(browser: str, url: str, picture: str, texts: list[str]) -> None:
    """Take the picture.

    Raises:
        AssertionError: the page does not show one of the texts.
    """
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=OPTIONS)
        page = chromium.new_page(viewport=WINDOW, timezone_id="UTC", reduced_motion="reduce")
        page.set_default_timeout(LOADING)
        page.add_init_script(LIGHT)
        page.goto(url)
        trace = page.get_by_role("dialog")
        for text in texts:
            expect(trace).to_contain_text(text, timeout=LOADING)
        attributes = trace.get_by_role("table")  # the last there is to see
        attributes.click(trial=True)  # waits until nothing moves any more
        page.mouse.move(0, 0)  # where it is, buttons appear
        whole, last = trace.bounding_box(), attributes.bounding_box()
        height = last["y"] + last["height"] + MARGIN - whole["y"]
        page.screenshot(path=picture, animations="disabled", clip=whole | {"height": height})
        chromium.close()


if __name__ == "__main__":
    photograph(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
