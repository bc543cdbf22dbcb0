"""Draw the pictures of docs/report.md: trace docs/images/walk.py, report on it, look at the page.

usage: sudo .venv/bin/python docs/images/draw_report.py

Wants root, Chromium (tools/bootstrap --browser) and a C compiler. Writes report-plot.png,
report-page.png and flame.svg beside this file.
"""

import base64
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

from tests.unit.browser import Browser, executable  # noqa: E402
from tracer.reporting.pictures.flamesvg import svg  # noqa: E402
from tracer.reporting.pictures.html import page  # noqa: E402
from tracer.reporting.pictures.plot import picture  # noqa: E402
from tracer.reporting.reading.run import load  # noqa: E402

STEP = 560  # of 1000: where the slider stands
SIZE = {"width": 1280, "height": 1240}


def save(png: bytes, name: str) -> None:
    """With 128 colours, which is all there are: a fraction of the size."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


def screenshot(html: Path, folder: Path) -> bytes:
    """The page with its slider moved."""
    program = executable()
    if program is None:
        raise SystemExit("no Chromium here: tools/bootstrap --browser")
    with Browser(program, folder) as browser:
        tab = browser.open(html)
        tab.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=False, **SIZE)
        tab.evaluate(f"slider.value = {STEP}; slider.dispatchEvent(new Event('input')); 0")
        tab.evaluate("new Promise((done) => requestAnimationFrame(() => done(0)))")
        return base64.b64decode(tab.call("Page.captureScreenshot", format="png")["data"])


def flames(folder: Path) -> None:
    """Which code of docs/images/flame_work.c made pages resident."""
    whole = "-fno-optimize-sibling-calls"
    program, csv = folder / "work", folder / "flame.csv"
    source = "docs/images/flame_work.c"
    compiler = ["cc", "-O2", "-g", whole, "-pthread", "-o", program, source]
    subprocess.run(compiler, cwd=ROOT, check=True)
    trace = [sys.executable, "-m", "tracer.app.cli", "--quiet", "--stacks", "--csv", csv]
    subprocess.run([*trace, "--", "./work"], cwd=folder, check=True)
    picture = b"".join(svg(load(str(csv)), "gained"))
    (HERE / "flame.svg").write_bytes(picture.replace(bytes(folder), b"/opt/example"))


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        trace = [sys.executable, "-m", "tracer.app.cli", "--quiet", "--snapshot-interval", "100"]
        files = ["--csv", folder / "walk.csv", "--pages-csv", folder / "pages.csv"]
        subprocess.run(
            [*trace, *files, "--", "/usr/bin/python3", "docs/images/walk.py"], cwd=ROOT, check=True
        )
        run = load(str(folder / "walk.csv"))
        save(picture(run), "report-plot.png")
        html = folder / "walk.html"
        html.write_bytes(page(run))
        save(screenshot(html, folder / "profile"), "report-page.png")
        flames(folder)


if __name__ == "__main__":
    main()
