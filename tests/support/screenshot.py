"""A picture of a page, or of a part of it, in a file: `python -m tests.support.screenshot PAGE page.png`."""

import base64
from pathlib import Path

import click

from tests.support.browser import chromium

MARGIN = 24  # pixels to the left and right of a part
QUALITY = 70  # of WebP, in percent


@click.command()
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--width", default=1440, show_default=True, help="Width of the window in pixels.")
@click.option("--height", default=1060, show_default=True, help="Height of the window in pixels; 0: the whole page.")
@click.option("--part", metavar="SELECTOR", help="Only this element, by its CSS selector.")
@click.option("--scheme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
def main(page: Path, out: Path, width: int, height: int, part: str | None, scheme: str) -> None:
    """Write a PNG or WebP of PAGE to OUT.

    \b
    Examples:
      python -m tests.support.screenshot samples/demo/index.html page.png
      python -m tests.support.screenshot samples/demo/index.html scores.png --height 0 --part "#scores"
    """
    with chromium() as browser:
        browser.open(page, width, height or 900, scheme)
        whole = browser.run("return document.documentElement.scrollHeight")
        browser.open(page, width, height or whole, scheme)
        browser.run("document.documentElement.style.scrollbarWidth = 'none'")
        browser.wait(
            "Promise.all([...document.images].map((image) => image.decode())).then(() => done(), () => done())"
        )
        box = {"x": 0, "y": 0, "width": width, "height": height or whole}
        if part:
            box = browser.run("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", part)
            x, y, width, height = (round(box[side]) for side in ("x", "y", "width", "height"))
            margin = min(MARGIN, x)
            box = {"x": x - margin, "y": y, "width": width + 2 * margin, "height": height}
        options = {"format": out.suffix.removeprefix("."), "quality": QUALITY, "clip": {**box, "scale": 1}}
        picture = browser.driver.execute_cdp_cmd("Page.captureScreenshot", options)
    out.write_bytes(base64.b64decode(picture["data"]))
    click.echo(f"{out}: {box['width']} x {box['height']} pixels of {page}")


if __name__ == "__main__":
    main()
