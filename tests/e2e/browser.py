"""A real Chromium, driven from a test: everything in one call, since its library wants one thread."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import trio
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# No background traffic, which a closed network refuses many times at every start.
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
T = TypeVar("T")


async def browsing(look: Callable[[Browser], T]) -> T:
    """What ``look`` finds with a browser of its own. Skips where there is none, but not with CI=true."""
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing")
        pytest.skip("chromium is not installed")
    return await trio.to_thread.run_sync(_browse, look)


def _browse(look: Callable[[Browser], T]) -> T:
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            return look(browser)
        finally:
            browser.close()


@contextlib.contextmanager
def page_of(browser: Browser, *, width: int = 1100, dark: bool = False, scripts: bool = False) -> Iterator[Page]:
    """A page that must stay without errors, messages in the console, and requests that fail."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
    )
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    try:
        yield page
        assert not said, said
    finally:
        context.close()
