"""Pages of the documentation site that are made when it is built: from the code, and from files outside docs/.

MkDocs loads this file as a hook (mkdocs.yml). `made` gives the pages, so a test can look at them without MkDocs.
"""

import ast
import io
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import kpod
from kpod.commands.command_line import VERBS, main
from kpod.commands.explain import remade
from kpod.recipe import Recipe
from kpod.recipe.descriptions import explain
from kpod.recipe.sections import SECTIONS

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "results.md": "benchmarks/RESULTS.md",
    "study.md": "benchmarks/study.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page -> the file outside docs/ that it shows."""
NOTEBOOKS = {
    f"notebooks/{path.stem}.md": str(path.relative_to(ROOT)) for path in sorted((ROOT / "examples").glob("*.ipynb"))
}
"""Page -> the notebook that it shows."""
ATTACHED = {
    path.name: path
    for pattern in ("*.svg", "*.json", "*.tar.xz")
    for path in sorted((ROOT / "benchmarks").glob(pattern))
}
"""Figures and archives of the pages outside docs/."""
SCRIPTS = {
    f"files/{path.relative_to(ROOT).with_suffix('.md')}": str(path.relative_to(ROOT))
    for pattern in ("examples/**/*.py", "examples/**/*.yaml", "examples/**/*.jsonl", "recipes/*.yaml")
    for path in sorted(ROOT.glob(pattern))
}
"""Page -> the script, recipe or data file that it shows as code."""
GROUPS = {
    "": "Recipes and runs",
    "data": "Questions, rationales and answers",
    "teacher": "A teacher's rationales",
    "lm": "Models and tokens",
    "steps": "Steps",
    "weighting": "Token weights",
    "schedule": "Difficulties and schedule",
    "training": "Training",
    "evaluation": "Evaluation",
    "records": "Records and errors",
}
"""Package under kpod -> the heading of its public names."""


def made() -> dict[str, str]:
    """Every page that is made, by its path on the site."""
    shown = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in OUTSIDE.items()}
    code = {page: _code(ROOT / source) for page, source in SCRIPTS.items()}
    code |= {page: _cells(ROOT / source) for page, source in NOTEBOOKS.items()}
    reference = {
        "reference/keys.md": keys_page(),
        "reference/commands.md": commands_page(),
        "reference/api.md": api_page(),
        "reference/modules.md": modules_page(),
    }
    return shown | code | reference


def keys_page() -> str:
    """Every recipe key: what it may be, its default, what it does, and what a change makes again."""
    parts = [
        "# Recipe keys",
        "This page is generated from the code. `kpod explain KEY` prints the same texts. "
        "[Recipe keys](../recipes.md) says how to use them.",
    ]
    roots = [field.name for field in fields(Recipe)]
    in_order = sorted(SECTIONS.items(), key=lambda item: (roots.index(item[0].split(".")[0] or roots[0]), item[0]))
    for name, section in in_order:
        parts += [f"## {name or 'At the top'}", _plain(section.__doc__ or "")]
        for field in fields(section):
            key = f"{name}.{field.name}".lstrip(".")
            if key not in SECTIONS and key != "training.arguments":
                parts += _key(key)
    return "\n\n".join(parts) + "\n"


def _key(key: str) -> Iterator[str]:
    first, *does = explain(key).splitlines()
    wanted, _, default = first.removeprefix(f"{key}: ").partition("; by default ")
    yield f"### {key}"
    yield f"{wanted.capitalize() if wanted.islower() else wanted}" + (f"; by default `{default}`." if default else ".")
    yield _plain(" ".join(does))
    yield remade(key)


def _plain(text: str) -> str:
    """A docstring as Markdown: what looks like a tag is shown, not hidden."""
    outside = re.split(r"(`[^`]*`)", re.sub(r"\s*\n\s*", " ", text.strip()))
    return "".join(part if part.startswith("`") else re.sub(r"([<*{])", r"\\\1", part) for part in outside)


def commands_page() -> str:
    """The help of every command, as its parser prints it."""
    parts = ["# Commands", "This page is generated from the parsers. `kpod COMMAND --help` prints the same texts."]
    for verb in VERBS:
        parts += [f"## kpod {verb}", f"```text\n{_help(verb)}```"]
    return "\n\n".join(parts) + "\n"


def _help(verb: str) -> str:
    environment = patch.dict(os.environ, COLUMNS="96", NO_COLOR="1")
    with environment, redirect_stdout(io.StringIO()) as out, suppress(SystemExit):  # as argparse ends its help
        main([verb, "--help"])
    return out.getvalue()


def api_page() -> str:
    """Every name of `kpod.__all__`, by the package that it comes from."""
    by_group: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in sorted(kpod.__all__, key=str.lower):
        home = kpod._HOMES.get(name)
        if home is not None:
            group = home.split(".")[1]
            by_group[group if group in GROUPS else ""].append(f"::: {home}.{name}")
    parts = ["# Python API", "This page is generated from the docstrings. [From Python](../python.md) is the overview."]
    for group, entries in by_group.items():
        parts += [f"## {GROUPS[group]}", *entries]
    return "\n\n".join(parts) + "\n"


def modules_page() -> str:
    """What the public modules of python.md hold beside the names of `kpod` itself."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    parts = [
        "# Public modules",
        "Public names beside those of the [Python API](api.md). [From Python](../python.md) is the overview.",
    ]
    shown = {f"{home}.{name}" for name, home in kpod._HOMES.items()}
    for module, purpose in re.findall(r"^\| `(kpod\.[\w.]+)` \| (.*) \|", text, re.MULTILINE):
        entries = [f"::: {name}" for name in _public(module) if name not in shown]
        shown.update(_public(module))
        parts += [f"## {module}", f"{purpose[0].upper()}{purpose[1:]}.", *entries]
    return "\n\n".join(parts) + "\n"


def _public(module: str) -> list[str]:
    """The public functions and classes of a module, each by the module that defines it."""
    path = ROOT / "src" / Path(*module.split("."))
    body = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")).body
    defined = {node.name: module for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if path.is_dir():  # a package shows what its modules define
        for node in body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{module}."):
                defined |= {alias.name: str(node.module) for alias in node.names}
    return [f"{home}.{name}" for name, home in defined.items() if not name.startswith("_")]


def _code(path: Path) -> str:
    language = {".py": "python", ".yaml": "yaml", ".jsonl": "json"}[path.suffix]
    return f"# {path.relative_to(ROOT)}\n\n```{language}\n{path.read_text(encoding='utf-8')}```\n"


def _cells(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    shown = zip(cells, texts, strict=True)
    parts = [text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```" for cell, text in shown]
    return "\n\n".join(parts) + "\n"


def source_of(page: str) -> str:
    """The file of the repository that a page shows.

    Example:
        >>> source_of("results.md"), source_of("data.md")
        ('benchmarks/RESULTS.md', 'docs/data.md')
    """
    return {**OUTSIDE, **SCRIPTS, **NOTEBOOKS}.get(page, f"docs/{page}")


def relinked(text: str, page: str) -> str:
    """A page's Markdown with links to files of the repository as links to the pages that show them.

    Example:
        >>> relinked("[study](../benchmarks/study.md#costs)", "data.md")
        '[study](study.md#costs)'
    """
    pages = {source: page for page, source in {**OUTSIDE, **SCRIPTS, **NOTEBOOKS}.items()}
    pages |= {f"benchmarks/{name}": name for name in ATTACHED} | {"README.md": "index.md"}

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(page)), target))
        uri = pages.get(path, path.removeprefix("docs/"))
        there = posixpath.relpath(uri, posixpath.dirname(page) or ".")
        return f"]({there}#{anchor})" if anchor else f"]({there})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", link, text)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs' event: add what is made to the files of the site."""
    from mkdocs.structure.files import File

    for page, text in made().items():
        files.append(File.generated(config, page, content=text))
    for name, path in ATTACHED.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Mapping[str, Any]) -> str:
    """MkDocs' event: lead the links of a page to pages of the site."""
    return relinked(markdown, page.file.src_uri)
