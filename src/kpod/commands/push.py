"""`kpod push`: a run's student to the Hugging Face Hub, with a model card."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpod.commands.hub_upload import MAIN, check_login, check_name, hub, upload
from kpod.commands.recipe_argument import recipe_file
from kpod.commands.terminal import say
from kpod.recipe import Recipe
from kpod.recipe.loading import dump_recipe, load_recipe
from kpod.recipe.safe_yaml import dump_yaml, parse_yaml
from kpod.records import Question
from kpod.records.errors import ConfigError, DataError, KpodError, require
from kpod.records.files import write_text
from kpod.records.outcomes import Accuracy

if TYPE_CHECKING:
    from kpod.commands.pages.card import Card

CARD = "card.md"
KEPT = ("kpod_training.json", "README.md", "recipe.yaml")
"""Files of the student that are not uploaded as they are: for kpod alone, or replaced."""
WORDS = ("prompt", "columns", "answer_words")
"""Sections of a recipe that hold words, not names of files."""
LICENSE_KEYS = ("license", "license_name", "license_link")
SUM = Question("example", "A baker fills 4 trays with 6 rolls each and sells 5 rolls. How many rolls are left?", "19")
CHOICE = Question("example", "What do bees make?", "B", {"A": "milk", "B": "honey", "C": "wool"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    parser.add_argument("run", type=Path, help="a run folder with its report")
    parser.add_argument("repo", help="where the student goes, as owner/name; it is created if it is not there")
    parser.add_argument("--dry-run", action="store_true", help="list files and write the card; needs no network")
    parser.add_argument("--private", action="store_true", help="only you and your organisation can see the repository")
    parser.add_argument("--revision", default=MAIN, metavar="BRANCH", help="a branch; it is created if it is not there")
    parser.add_argument("--license", metavar="ID", help="such as apache-2.0; by default that of the base model's card")
    parser.add_argument("--base-model", metavar="NAME", help="the Hub's name of a student that came from a folder")


def work(options: argparse.Namespace) -> None:
    """Upload the student, or say what would be uploaded."""
    require(not options.overrides, "kpod push", " ".join(options.overrides), "given no recipe keys: the run is done")
    check_name(options.repo)
    if not options.dry_run:
        check_login()
    recipe = load_recipe(recipe_file(options.run))
    student = _finished_student(options.run)
    card = str(card_of(options, recipe, student))
    _check_card(card)
    files = files_of(student, {"README.md": card, "recipe.yaml": _for_strangers(dump_recipe(recipe))})
    write_text(options.run / CARD, card)
    say("\n".join([*_listing(files, options), f"card: {options.run / CARD}"]))
    if not options.dry_run:
        say(f"pushed: {upload(options.repo, files, recipe.name, options.revision, private=options.private)}")


# -- what is uploaded --------------------------------------------------------------------------------------


def files_of(student: Path, written: Mapping[str, str]) -> dict[str, Path | bytes]:
    """What is uploaded: name -> a file, or its content.

    Args:
        student: A finished student's folder. Only what its stamp names is uploaded, so a user's own files stay here.
        written: Texts that are made for the Hub.
    """
    stamp = json.loads((student / "stamp.json").read_text(encoding="utf-8"))
    files: dict[str, Path | bytes] = {name: student / name for name in stamp["files"] if name not in KEPT}
    files |= {name: text.encode() for name, text in written.items()}
    return dict(sorted(files.items()))


def _finished_student(run: Path) -> Path:
    """The folder of a run's student, which is as training left it.

    Raises:
        DataError: If there is none, a file of it was altered, or the run's report is of another student.
    """
    from kpod.experiment.run_folder import STAMP, RunFolder, check_unaltered

    student = run / "student"
    if not (student / STAMP).is_file():
        raise DataError(f"{student} holds no finished student; run kpod run {run} first")
    check_unaltered(student, f"kpod run {run}")
    if _reported(run).get("provenance", {}).get("hash of student") != RunFolder(run).key("student"):
        raise DataError(f"{run}/report.json does not tell of the student in {student}; run kpod run {run} first")
    return student


def _reported(run: Path) -> dict[str, Any]:
    """What the run's report says, in plain types; empty where there is none."""
    try:
        found = json.loads((run / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _listing(files: Mapping[str, Path | bytes], options: argparse.Namespace) -> Iterator[str]:
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    kind = "private repository" if options.private else "public repository"
    yield f"{'would push' if options.dry_run else 'pushing'} to the {kind} {options.repo}, branch {options.revision}:"
    yield from (f"  {name}  {size:,} bytes" for name, size in sizes.items())
    yield f"  {len(sizes)} files, {sum(sizes.values()):,} bytes"


# -- the card ----------------------------------------------------------------------------------------------


def card_of(options: argparse.Namespace, recipe: Recipe, student: Path) -> "Card":
    """The model card of a finished student.

    Args:
        options: Of the command.
        recipe: The run's.
        student: The student's folder.

    Raises:
        ConfigError: If the weights are adapters for a model that others cannot load.
    """
    from kpod.commands.pages.card import Card, shown_name
    from kpod.experiment.methods import METHODS
    from kpod.lm.models import hub_name
    from kpod.lm.quick_start import quick_start

    run, report = options.run, _reported(options.run)
    method, evaluation = METHODS[recipe.method], recipe.evaluation
    base = options.base_model or hub_name(recipe.student)
    adapters = (student / "adapter_config.json").is_file()
    if adapters:
        _check_adapters(student)
    asked = next(iter(method.asking(recipe)))[1].data.prompt
    has_choices = _have_choices(run)
    rows = [(_accuracy(row["before"]), after) for row in report["accuracy"] if (after := _accuracy(row["after"]))]
    _, _, training = (student / "README.md").read_text(encoding="utf-8").partition("\n## Training\n")
    return Card(
        repo=options.repo,
        method=recipe.method,
        label=method.label,
        base_model=base,
        license=_license(recipe.student, base, options),
        adapters=adapters,
        train=recipe.data.train,
        accuracies=[row for row in rows if row[1].dataset in recipe.data.tests],
        beside=[row for row in rows if row[1].dataset not in recipe.data.tests],
        decoding="greedily"
        if evaluation.samples == 1
        else f"{evaluation.samples} times at temperature {evaluation.temperature}, and the most frequent answer counts",
        quick_start=quick_start(
            student, options.repo, CHOICE if has_choices else SUM, asked, evaluation.max_new_tokens
        ),
        has_choices=has_choices,
        weights=_how_weights_were_found(run, recipe, learns=method.learns),
        rationales=f"Trained on {report['rationales']['kept']:,} rationales, which were written by "
        f"{', '.join(map(shown_name, report['provenance']['rationales by'].split(', ')))}.",
        recipe_yaml=_for_strangers(dump_recipe(recipe)),
        versions={name: value for name, value in report["provenance"].items() if name != "rationales by"},
        training=training,
    )


def _check_card(card: str) -> None:
    """Raise KpodError where the Hub's own client cannot read the metadata back."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(card)
    except ValueError as error:
        raise KpodError(f"the card's metadata cannot be read back: {error}") from error


def _accuracy(row: Mapping[str, Any] | None) -> Accuracy | None:
    if row is None:
        return None
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    del values["value"]
    return Accuracy(**values)


def _have_choices(run: Path) -> bool:
    from kpod.experiment.artifacts import PREDICTIONS, read_jsonl

    files = sorted((run / "evaluation" / "after").glob(f"*/{PREDICTIONS}"))
    return any(row.get("choices") for file in files for row in read_jsonl(file)[:1])


def _how_weights_were_found(run: Path, recipe: Recipe, *, learns: bool) -> list[str]:
    """Full sentences, with what the judge of the weights found."""
    if not learns:
        return ["The method needs no learnt significance weights."]
    file = run / "weights" / "learning.json"
    if not file.is_file():
        return ["The significance weights came with the rationales."]
    found = json.loads(file.read_text(encoding="utf-8"))
    by = f"`{recipe.weighting.predictor}`" if recipe.weighting.predictor else "the student before training"
    told = [
        f"The significance weights were learnt by masking tokens (estimator `{recipe.weighting.estimator}`): {by}\n"
        "predicted the answers from masked rationales."
    ]
    if rounds := found.get("rounds"):
        told.append(f"It was asked about {rounds[-1]['observed']:,} of them.")
    if "learnt" in (objective := found.get("objective") or {}):
        told.append(
            f"With only the tokens of a weight above 0.5 its mean loss L_k is {objective['learnt']:.3f} nats; with as\n"
            f"many tokens chosen at random it is {objective['random']:.3f}."
        )
    return [*told, *(f"\nWarning of the run: {warning}." for warning in found.get("warnings", ()))]


def _for_strangers(recipe_yaml: str) -> str:
    """A recipe with the paths of this machine shortened to their last names."""
    from kpod.commands.pages.card import shown_name

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one if key in WORDS else shortened(one) for key, one in value.items()}
        if isinstance(value, list):
            return [shortened(one) for one in value]
        return shown_name(value) if isinstance(value, str) else value

    return dump_yaml(shortened(parse_yaml(recipe_yaml, "recipe.yaml")))


def _check_adapters(student: Path) -> None:
    """Refuse adapters on a model that is a folder of this machine."""
    config = json.loads((student / "adapter_config.json").read_text(encoding="utf-8"))
    base = str(config.get("base_model_name_or_path"))
    if Path(base).exists():
        raise ConfigError(
            f"{student} holds adapters for the model in the folder {base}, which nobody else can load: train with "
            "training.merge_lora: true, or with the student's name on the Hub"
        )


def _license(student: str, base: str | None, options: argparse.Namespace) -> dict[str, str]:
    """What is known of the base model's licence; where nothing is, a line says so."""
    if options.license:
        return {"license": options.license}
    why = "is not in its folder or in the cache" if options.dry_run else "names none"
    try:
        for card in _base_cards(student, base, online=not options.dry_run):
            if found := {key: card[key] for key in LICENSE_KEYS if isinstance(card.get(key), str)}:
                return found
    except Exception as error:  # whatever keeps the Hub's client from a public page, the student can be pushed
        why = f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    say(f"license: the card of {base or student} {why}, so this card names none; set --license", error=True)
    return {}


def _base_cards(student: str, base: str | None, *, online: bool) -> Iterator[Mapping[str, Any]]:
    """The metadata of the base model's card: in its folder, in the cache, and on the Hub."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    files: list[object] = [Path(student) / "README.md"]
    if base is not None:
        files.append(try_to_load_from_cache(base, "README.md"))
    for file in files:
        if isinstance(file, str | Path) and Path(file).is_file():
            yield ModelCard.load(file, ignore_metadata_errors=True).data.to_dict()
    if online and base is not None and (card := hub().model_info(base).card_data) is not None:
        yield {key: card.get(key) for key in LICENSE_KEYS}
