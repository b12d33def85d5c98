"""The two curves of a comparison's page as files of their own, in the page's colours by daylight.

    python benchmarks/study_figures.py runs/study-compare/comparison.html benchmarks/study

writes benchmarks/study-by-step.svg and benchmarks/study-by-token.svg.
"""

import argparse
import re
from pathlib import Path


def figures_of(page: str) -> dict[str, str]:
    """Name of each curve, such as by-step -> a whole SVG file; the page's variables stand for its first colours."""
    colours: dict[str, str] = {}
    for name, colour in re.findall(r"--([\w-]+): (#\w+)", page):
        colours.setdefault(name, colour)
    figures = {}
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        (name,) = re.findall(r'<g id="(\S+?)-figure_1"', drawing)
        coloured = re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], drawing)
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        figures[name] = coloured.replace("<svg", f"<svg {spaces}", 1) + "\n"
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the comparison.html of `kpod compare`")
    parser.add_argument("stem", help="what the files' names start with")
    options = parser.parse_args()
    for name, drawing in figures_of(options.page.read_text(encoding="utf-8")).items():
        Path(f"{options.stem}-{name}.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
