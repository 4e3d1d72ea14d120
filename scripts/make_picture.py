"""Take docs/report.png, the picture of the README, from the report of a run.

    fedfm run quickstart --out runs/picture && python scripts/make_picture.py runs/picture

Needs Pillow, and Chromium or Chrome on the path; the page fetches nothing. Run it on a quiet machine: the page shows times.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 1080  # the head of the page, the ladder and the main curve
FRAME = 120  # a window's height is more than that of what it shows


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("run", type=Path, help="the run directory")
    options.add_argument("--to", type=Path, default=PICTURE)
    given = options.parse_args()
    page = given.run.resolve() / "report.html"
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or not page.is_file():
        lacking = f"there is no {page}" if browser else f"none of {', '.join(BROWSERS)} is installed"
        print(lacking, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as profile:
        switches = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ]
        window, shot = f"--window-size={WIDTH},{HEIGHT + FRAME}", Path(profile) / "shot.png"
        command = [browser, *switches, window, f"--screenshot={shot}", "--virtual-time-budget=2000"]
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=300)
        with Image.open(shot) as found:
            found.convert("RGB").crop((0, 0, WIDTH, HEIGHT)).save(given.to, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
