"""The documentation site: its pages are there, their links lead somewhere, and their commands and recipes are right."""

import posixpath
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from kpod.commands.command_line import VERBS, parsed
from kpod.recipe.loading import load_recipe
from kpod.recipe.sections import SECTIONS, keys_of

ROOT = Path(__file__).parent.parent
SITE = runpy.run_path(str(ROOT / "docs" / "site_pages.py"))
WRITTEN = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text("utf-8") for path in (ROOT / "docs").rglob("*.md")
}
AT_THE_TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")
SOURCES = [*AT_THE_TOP, "benchmarks/study.md", *(f"docs/{page}" for page in WRITTEN)]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return SITE["made"]()  # type: ignore[no-any-return]


def in_nav(entry: object) -> list[str]:
    if isinstance(entry, dict):
        return [page for inner in entry.values() for page in in_nav(inner)]
    if isinstance(entry, list):
        return [page for inner in entry for page in in_nav(inner)]
    return [str(entry)]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


def test_the_navigation_names_every_page_and_no_other(made: dict[str, str]) -> None:
    nav = in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    files = {page for page in made if page.startswith("files/")}
    assert sorted(nav) == sorted({*WRITTEN, *made} - files)


@pytest.mark.parametrize("source", SOURCES)
def test_links_lead_to_files_and_headings_that_are_there(source: str) -> None:
    text = (ROOT / source).read_text("utf-8")
    outside_code = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", outside_code)):
        file = (ROOT / source).parent / target if target else ROOT / source
        assert file.exists(), target
        assert not anchor or file.suffix != ".md" or anchor in anchors(file.read_text("utf-8")), f"{target}#{anchor}"


def test_links_on_the_site_lead_to_pages_of_the_site(made: dict[str, str]) -> None:
    pages = WRITTEN | made
    files = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()}
    there = files | {*pages, *SITE["ATTACHED"]}
    for page, text in pages.items():
        outside_code = re.sub(r"^```.*?^```|`[^`\n]*`", "", SITE["relinked"](text, page), flags=re.M | re.S)
        for link in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", outside_code):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            assert target in there, f"{page}: {link}"


def test_the_page_of_keys_has_every_key_and_the_page_of_commands_every_command(made: dict[str, str]) -> None:
    keys = {f"{section}.{name}".lstrip(".") for section in SECTIONS for name in keys_of(section)}
    headings = set(re.findall(r"^### (\S+)$", made["reference/keys.md"], re.MULTILINE))
    assert headings == keys - set(SECTIONS) - {"training.arguments"}
    assert re.findall(r"^## kpod (\S+)$", made["reference/commands.md"], re.MULTILINE) == list(VERBS)
    assert made["reference/commands.md"].count("usage: kpod") == len(VERBS)


HOW_TOS = {page: text for page, text in WRITTEN.items() if page.startswith("how-to/") or page == "tutorial.md"}
RECIPES = [(page, block) for page, text in HOW_TOS.items() for block in blocks(text, "yaml") if "name:" in block]


@pytest.mark.parametrize(("page", "recipe"), RECIPES, ids=[page for page, _ in RECIPES])
def test_recipes_of_how_tos_can_be_read(page: str, recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    assert load_recipe(path).name == yaml.safe_load(recipe)["name"]


COMMANDS = [
    (page, line)
    for page, text in HOW_TOS.items()
    for block in blocks(text, "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if re.search(r"(^|-m )kpod ", line)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_of_how_tos_are_understood(page: str, line: str) -> None:
    words = shlex.split(line[re.search(r"kpod ", line).end() :], comments=True)  # type: ignore[union-attr]
    options = parsed(words)
    load_recipe(None, options.overrides)
