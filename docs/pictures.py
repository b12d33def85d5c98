"""Take the pictures of a report that the documentation shows: python docs/pictures.py runs/tutorial.

It needs Chromium or Chrome on the path. Look at the pictures before you commit them.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parent / "pictures"
PICTURES = {
    "report.png": ("section:not(#accuracy)", 780),
    "token-weights.png": ("header, nav, footer, section:not(#weights)", 760),
}
"""Picture -> what of the page is hidden in it, and its height in pixels."""


def take(report: Path) -> None:
    """Write the pictures of a report.html, 1000 pixels wide.

    Raises:
        SystemExit: If no browser is found.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(names)} is on the path")
    FOLDER.mkdir(exist_ok=True)
    text = report.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        for picture, (hidden, height) in PICTURES.items():
            page.write_text(text.replace("</style>", f"{hidden} {{display: none}}</style>", 1), encoding="utf-8")
            options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size=1000,{height}"]
            command = [browser, *options, f"--screenshot={FOLDER / picture}", page.as_uri()]
            subprocess.run(command, check=True, timeout=120, stderr=subprocess.DEVNULL)  # noqa: S603


if __name__ == "__main__":
    take(Path(sys.argv[1]) / "report.html")
