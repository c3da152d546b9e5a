"""A picture of a page in a file: `python -m tests.support.screenshot samples/demo/index.html page.png`."""

import base64
from pathlib import Path

import click

from tests.support.browser import chromium


@click.command()
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--width", default=1440, show_default=True, help="Width of the window in pixels.")
@click.option("--height", default=1060, show_default=True, help="Height of the window in pixels; 0: the whole page.")
@click.option("--scheme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
def main(page: Path, out: Path, width: int, height: int, scheme: str) -> None:
    """Write a PNG of PAGE to OUT."""
    with chromium() as browser:
        browser.open(page, width, height or 900, scheme)
        whole = browser.run("return document.documentElement.scrollHeight")
        browser.open(page, width, height or whole, scheme)
        browser.run("document.documentElement.style.scrollbarWidth = 'none'")
        browser.wait(
            "Promise.all([...document.images].map((image) => image.decode())).then(() => done(), () => done())"
        )
        picture = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    out.write_bytes(base64.b64decode(picture["data"]))
    click.echo(f"{out}: {width} x {height or whole} pixels of {page}")


if __name__ == "__main__":
    main()
