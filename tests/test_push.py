"""`kpod push`: what goes to the Hub, the card's facts, code that runs, and refusals that say what to do."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from fake_hub import FakeHub, fake_hub
from kpod.commands.command_line import main
from kpod.commands.pages.card import Card, shown_name
from kpod.commands.push import CHOICE, SUM, _check_adapters, _for_strangers, _how_weights_were_found
from kpod.commands.report import write_report
from kpod.experiment.pipeline import Pipeline, run
from kpod.lm.decoding import continue_greedily, decode
from kpod.lm.models import LanguageModel, load_model, with_lora
from kpod.lm.quick_start import quick_start
from kpod.lm.student_prompts import prompt_ids
from kpod.recipe import LoraConfig, PromptConfig, Recipe
from kpod.recipe.loading import dump_recipe
from kpod.records.errors import ConfigError
from kpod.records.hub_reach import check_hub_answers
from kpod.records.outcomes import Accuracy
from tiny import tiny_llama, tiny_t5
from tiny_runs import recipe, write_tiny_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub's call of its HTTP library
]

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NAMES = ["README.md", "config.json", "generation_config.json", "metrics.jsonl", "model.safetensors", "recipe.yaml"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of scotd, with its report."""
    folder = tmp_path_factory.mktemp("run")
    found = recipe(
        write_tiny_data(folder / "data"),
        folder / "runs",
        "llama",
        "--method",
        "scotd",
        "--training.num_train_epochs",
        "1",
    )
    run(found)
    write_report(Pipeline(found))
    (folder / "runs" / "tiny" / "student" / "notes.txt").write_text("my own", encoding="utf-8")
    return folder / "runs" / "tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its five tries
        huggingface_hub.close_session()
        check_hub_answers.cache_clear()
        yield found
        huggingface_hub.close_session()
        check_hub_answers.cache_clear()


# -- what would be pushed, and the card --------------------------------------------------------------------


def test_a_dry_run_lists_the_files_and_writes_the_card(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(finished), "me/tiny", "--dry-run", "--private"]) == 0
    told = capsys.readouterr()
    first, *lines = told.out.splitlines()
    assert first == "would push to the private repository me/tiny, branch main:"
    sizes = dict(line.split("  ")[1:] for line in lines[:-2])
    assert list(sizes) == [*NAMES, "tokenizer.json", "tokenizer_config.json"]
    card = (finished / "card.md").read_bytes()
    assert sizes["README.md"] == f"{len(card):,} bytes"
    assert sizes["model.safetensors"] == f"{(finished / 'student' / 'model.safetensors').stat().st_size:,} bytes"
    assert lines[-1] == f"card: {finished}/card.md"
    assert "set --license" in told.err


def test_the_card_tells_what_the_hub_and_a_reader_want_to_know(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dry-run", "--license", "mit", "--base-model", "some/base"]
    assert main(["push", str(finished), "me/tiny", *words]) == 0
    capsys.readouterr()
    card = ModelCard.load(finished / "card.md")
    found = card.data.to_dict()
    (entry,) = found.pop("model-index")
    assert found == {
        "base_model": "some/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["kpod", "distillation", "chain-of-thought"],
    }
    (result,) = entry["results"]
    reported = json.loads((finished / "report.json").read_text())["accuracy"][0]["after"]
    assert entry["name"] == "tiny"
    assert result["dataset"] == {"name": "rationales.jsonl", "type": "rationales.jsonl"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", reported["value"])
    assert metric["args"]["interval_95"] == [round(bound, 4) for bound in reported["interval"]]
    assert metric["args"]["num_questions"] == 2
    for part in (
        "method `scotd` (SCoTD)",
        "| rationales.jsonl | 0.0 % (0.0–65.8 %; 2) | 0.0 % (0.0–65.8 %; 2) |",
        "Trained on 6 rationales, which were written by tests (6).",
        "needs no learnt significance weights",
        "| optimiser steps | 2 |",
        "| seed | 0 |",
        "| hash of student |",
        "## Limits",
        "@inproceedings{feng2024keypoint",
    ):
        assert part in card.text, part
    assert str(finished.parent.parent) not in card.text
    shown = yaml.safe_load(card.text.partition("```yaml\n")[2].partition("```")[0])
    assert shown["data"]["train"] == "rationales.jsonl"
    assert shown["training"]["learning_rate"] == 1e-3


def test_the_code_of_the_card_answers_as_the_evaluation_does(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(finished), "me/tiny", "--dry-run"])
    capsys.readouterr()
    code = (finished / "card.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert "'me/tiny'" in code
    student = finished / "student"
    printed = ran(code.replace("'me/tiny'", repr(str(student))))
    assert printed == kpods_answer(load_model(str(student)), PromptConfig(), 4)


def ran(code: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue().strip()


def kpods_answer(lm: LanguageModel, prompt: PromptConfig, max_new_tokens: int, question=SUM) -> str:
    (written,) = continue_greedily(lm, [prompt_ids(lm, question, prompt)], max_new_tokens)
    return decode(lm, written.token_ids)


def test_adapters_are_asked_by_the_same_code(tmp_path: Path) -> None:
    """With the model that they stand on in a folder; a push refuses them then, since others have no such folder."""
    lm = tiny_llama(1)
    for part in (lm.model, lm.tokenizer):
        part.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    base = load_model(str(tmp_path / "base"))
    adapted = with_lora(base.model, LoraConfig(rank=2, alpha=64))  # type: ignore[arg-type]
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "student")  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path / "student")
    code = quick_start(tmp_path / "student", str(tmp_path / "student"), SUM, PromptConfig(), 8)
    found = ran(code)
    assert found == kpods_answer(replace(base, model=adapted.eval()), PromptConfig(), 8)
    assert found != kpods_answer(load_model(str(tmp_path / "base")), PromptConfig(), 8)
    with pytest.raises(ConfigError, match=r"holds adapters for the model in the folder .*base, which nobody else"):
        _check_adapters(tmp_path / "student")


@pytest.mark.parametrize("question", [SUM, CHOICE], ids=["sum", "choice"])
@pytest.mark.parametrize(
    ("lm", "template", "prompt"),
    [
        (tiny_llama(1), None, PromptConfig()),
        (tiny_llama(2, bos=True), None, PromptConfig(question="{question} =", opening="Say 'so':\n\"")),
        (tiny_llama(3, bos=True, pad="eos"), CHAT, PromptConfig()),
        (tiny_llama(3, bos=True), CHAT, PromptConfig(chat=False)),
        (tiny_llama(4), CHAT.replace("[user]", "{{ strftime_now('%d %b') }}"), PromptConfig(opening="<think>\n")),
        (tiny_llama(4), "{{ strftime_now('%d %b %Y') }} " + CHAT.replace("{{ bos_token }}", ""), PromptConfig()),
        (tiny_t5(1), None, PromptConfig(question="Ask: {question} {question}\n\n```\n")),
    ],
)
def test_the_quick_start_reads_what_the_student_was_trained_after(
    lm: LanguageModel, template: str | None, prompt: PromptConfig, question, tmp_path: Path
) -> None:
    """Settings of the checkpoint that would change its answers do not count, as in the evaluation."""
    lm.tokenizer.chat_template = template
    lm.model.generation_config.repetition_penalty = 5.0  # type: ignore[union-attr]
    lm.model.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    code = quick_start(tmp_path, str(tmp_path), question, prompt, 12)
    assert ran(code) == kpods_answer(load_model(str(tmp_path)), prompt, 12, question) != ""


def test_data_sets_of_the_hub_are_linked_and_others_named() -> None:
    after = Accuracy("gsm8k:test", 10, 4, 1, 0, (0.168, 0.687))
    card = Card(
        repo="me/x",
        method="kpod",
        label="KPOD",
        train="gsm8k",
        adapters=True,
        base_model="some/base",
        accuracies=[(None, after)],
        quick_start="",
        weights=[],
        rationales="",
        recipe_yaml="",
        versions={"a|b": "/home/me/c|d"},
        training="",
    )
    found = card.metadata.to_dict()
    assert found["datasets"] == ["openai/gsm8k"]
    assert (found["base_model_relation"], found["library_name"]) == ("adapter", "peft")
    assert found["model-index"][0]["results"][0]["dataset"] == {
        "name": "gsm8k:test",
        "type": "openai/gsm8k",
        "config": "main",
        "split": "test",
    }
    assert "| not measured | 40.0 % (16.8–68.7 %; 10) |" in str(card)
    assert "| c\\|d |" in str(card)
    assert replace(card, train="hub:org/own:part").metadata.datasets == ["org/own"]
    beside = replace(card, beside=[(None, replace(after, dataset="gsm8k:test, last update", num_correct=5))])
    assert beside.metadata.to_dict()["model-index"] == found["model-index"], "of weights that are not uploaded"
    assert "| gsm8k:test, last update | not measured | 50.0 %" in str(beside)
    assert "datasets" not in replace(card, train="own.jsonl").metadata.to_dict()
    assert "Not measured." in str(replace(card, accuracies=()))


def test_paths_are_shortened_and_words_are_not() -> None:
    given = Recipe(
        student="/home/me/llama",
        data={"train": "~/own.jsonl", "prompt": {"chat_question": "/no_think {question}"}},  # type: ignore[arg-type]
    )
    shown = yaml.safe_load(_for_strangers(dump_recipe(given)))
    assert (shown["student"], shown["data"]["train"]) == ("llama", "own.jsonl")
    assert shown["data"]["prompt"]["chat_question"] == "/no_think {question}"
    assert [shown_name(name) for name in ("hub:a/b", "runs", "data/own.jsonl")] == ["hub:a/b", "runs", "data/own.jsonl"]


def test_the_card_tells_how_the_weights_were_found_and_what_the_run_warned_of(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    assert "came with the rationales" in _how_weights_were_found(tmp_path, Recipe(), learns=True)[0]
    found = {
        "rounds": [{"observed": 1200}],
        "objective": {"learnt": 1.5, "random": 2.25, "all": 1.0},
        "warnings": ["little was learnt"],
    }
    (tmp_path / "weights" / "learning.json").write_text(json.dumps(found))
    told = " ".join(_how_weights_were_found(tmp_path, Recipe(), learns=True))
    for part in (
        "the student before training",
        "1,200",
        "1.500 nats",
        "2.250",
        "Warning of the run: little was learnt.",
    ):
        assert part in told, part


# -- the Hub -----------------------------------------------------------------------------------------------


def test_a_push_makes_the_repository_and_one_commit(
    finished: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(finished), "me/tiny", "--private"]) == 0
    assert f"pushed: {hub.endpoint}/me/tiny/commit/" in capsys.readouterr().out
    assert hub.private == {"me/tiny": True}
    there = hub.files["me/tiny", "main"]
    assert sorted(there) == [*NAMES, "tokenizer.json", "tokenizer_config.json"]
    assert there["README.md"] == (finished / "card.md").read_bytes()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert there[name] == (finished / "student" / name).read_bytes()
    assert sum("/commit/" in call for call in hub.calls) == 1


def test_a_repository_that_is_there_gets_another_commit_and_loses_old_weights(finished: Path, hub: FakeHub) -> None:
    hub.private["me/tiny"] = False
    hub.files["me/tiny", "main"] = {
        "adapter_model.safetensors": b"old",
        "adapter_config.json": b"old",
        "model-00001-of-00002.safetensors": b"old",
        "onnx/model.safetensors": b"mine",
        "plot.png": b"mine",
    }
    assert main(["push", str(finished), "me/tiny"]) == 0
    there = hub.files["me/tiny", "main"]
    assert set(there) == {*NAMES, "tokenizer.json", "tokenizer_config.json", "plot.png", "onnx/model.safetensors"}


def test_a_branch_of_its_own(finished: Path, hub: FakeHub) -> None:
    assert main(["push", str(finished), "me/tiny", "--revision", "seed-1"]) == 0
    assert hub.files["me/tiny", "main"] == {}
    assert "model.safetensors" in hub.files["me/tiny", "seed-1"]


def test_a_broken_upload_leaves_nothing_to_see_and_the_next_one_sends_only_what_is_missing(
    finished: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for fault in ("/blobs/", "/commit/"):
        hub.refused = {fault: "drop"}
        assert main(["push", str(finished), "me/tiny"]) == 1
        assert "or the connection broke" in (told := capsys.readouterr().err)
        assert "run the same command again" in told
        assert hub.files["me/tiny", "main"] == {}
    hub.refused = {}
    assert main(["push", str(finished), "me/tiny"]) == 0
    assert len(hub.sent) == 1
    assert "model.safetensors" in hub.files["me/tiny", "main"]


@pytest.mark.parametrize(
    ("card", "refused", "found", "told"),
    [
        ({"license": "llama3.2"}, {}, "llama3.2", ""),
        ({}, {}, None, "the card of some/base names none"),
        ({"license": "mit"}, {"/some/base": 403}, None, "the card of some/base cannot be read (HfHubHTTPError"),
        ({"license": "mit"}, {"/some/base": 404}, None, "cannot be read (HfHubHTTPError: Client error '404"),
    ],
)
def test_the_license_of_a_base_model_on_the_hub(
    card: dict[str, str],
    refused: dict[str, int | str],
    found: str | None,
    told: str,
    finished: Path,
    hub: FakeHub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without it the student is pushed all the same, and a line says what is missing."""
    hub.private["some/base"], hub.files["some/base", "main"], hub.cards["some/base"] = False, {}, card
    hub.refused = refused
    assert main(["push", str(finished), "me/tiny", "--base-model", "some/base"]) == 0
    pushed = ModelCard(hub.files["me/tiny", "main"]["README.md"].decode()).data
    assert (pushed.base_model, pushed.license) == ("some/base", found)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "repo", "refused", "words", "code", "told"),
    [
        ("", "me/tiny", {}, [], 2, "no token for the Hub: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_bad", "me/tiny", {}, [], 2, "does not accept the token"),
        ("hf_good", "you/tiny", {}, [], 2, "you/tiny: the token may not write there"),
        ("hf_good", "me/public", {}, ["--private"], 2, "a public repository, which --private does not change"),
        ("hf_good", "me/tiny", {"/commit/": 403}, [], 2, "may not write there"),
        (
            "hf_good",
            "me/tiny",
            {"/blobs/": 403},
            [],
            1,
            "Error while uploading 'model.safetensors' ",
        ),
        ("hf_good", "me/tiny", {"/commit/": 413}, [], 1, "the Hub refuses this (413)"),
        ("hf_good", "me/tiny", {"validate-yaml": 400}, [], 1, "the Hub refuses this: Invalid metadata"),
        ("hf_good", "tiny", {}, [], 2, "written as owner/name"),
        ("hf_good", "me/ti ny", {}, [], 2, "no name of a repository on the Hub"),
        ("hf_good", "me/tiny", {}, ["--seed", "1"], 2, "given no recipe keys"),
    ],
)
def test_a_refusal_says_what_to_do_and_pushes_nothing(
    token: str,
    repo: str,
    refused: dict[str, int | str],
    words: list[str],
    code: int,
    told: str,
    finished: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere")
    hub.private["me/public"], hub.files["me/public", "main"], hub.refused = False, {}, refused
    assert main(["push", str(finished), repo, *words]) == code
    said = capsys.readouterr().err
    assert told in said
    assert "hf_good" not in said
    assert all(not files for files in hub.files.values())


def test_nothing_is_pushed_offline(
    finished: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["push", str(finished), "me/tiny", "--license", "mit"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert hub.calls == []


# -- runs that cannot be pushed ----------------------------------------------------------------------------


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def test_runs_without_a_whole_reported_student_are_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> str:
        assert main(["push", str(copied), "me/tiny", "--dry-run"]) == 2
        return capsys.readouterr().err

    report = json.loads((copied / "report.json").read_text())
    for other in ('{"provenance": {"hash of student": "0"}}', "[]", "torn"):
        (copied / "report.json").write_text(other)
        assert "report.json does not tell of the student" in told()
    (copied / "report.json").write_text(json.dumps(report))
    weights = copied / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors" in told()
    (copied / "student" / "stamp.json").unlink()
    assert "holds no finished student" in told()
    (copied / "recipe.yaml").unlink()
    assert "there is no recipe" in told()


def test_the_license_is_that_of_the_base_models_card(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = finished.parent.parent / "data" / "llama" / "README.md"
    base.write_text("---\nlicense: other\nlicense_name: qwen\nlicense_link: https://x.y/L\ntags: [a]\n---\n")
    try:
        assert main(["push", str(finished), "me/tiny", "--dry-run"]) == 0
    finally:
        base.unlink()
    assert capsys.readouterr().err == ""
    found = ModelCard.load(finished / "card.md").data
    assert (found.license, found.license_name, found.license_link) == ("other", "qwen", "https://x.y/L")
    assert found.get("base_model") is None
    assert found.tags == ["kpod", "distillation", "chain-of-thought"]


@pytest.mark.slow
def test_a_run_that_keeps_its_adapters_is_evaluated_and_not_pushed_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--method", "scotd", "--training.lora.rank", "2", "--training.merge_lora", "false")
    found = recipe(write_tiny_data(tmp_path / "data"), tmp_path / "runs", "llama", *words)
    ((_, after),) = run(found).accuracies
    assert after.num_questions == 2
    write_report(Pipeline(found))
    assert main(["push", str(tmp_path / "runs" / "tiny"), "me/tiny", "--dry-run"]) == 2
    assert "which nobody else can load: train with training.merge_lora: true" in capsys.readouterr().err
