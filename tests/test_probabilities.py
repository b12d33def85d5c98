"""What a teacher expects at each token that the student writes, and the phase that keeps it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kpod.experiment import artifacts, parts
from kpod.experiment.methods import METHODS, Method
from kpod.experiment.parts import ByRationale, Given, Part, uniform, whole
from kpod.experiment.pipeline import Pipeline
from kpod.lm import buckets, head
from kpod.lm.encoding import encode_rationales
from kpod.lm.models import LanguageModel
from kpod.lm.readings import aligned, read_texts
from kpod.lm.student_prompts import chat_ids, prompt_ids
from kpod.lm.vocabularies import Translation, ids_by_text, token_texts, translation
from kpod.recipe import AskConfig, DataConfig, LogprobsConfig, PromptConfig, Recipe, TeacherConfig, TeacherPromptConfig
from kpod.records import Rationale, TokenizedRationale
from kpod.records.errors import ConfigError, DataError
from kpod.records.topk import TopK
from kpod.teacher import probabilities
from kpod.teacher.asking import Asked, Explained
from kpod.teacher.attempts import Attempt, TokenLogprob
from kpod.teacher.gathering import Gathered
from kpod.teacher.probabilities import Written, by_answers, coverage, distributions_of, teacher_distributions
from tiny import END, ascii_tokenizer, byte_tokenizer, model_with, tiny_llama, tiny_rationales, tiny_t5
from tiny_runs import recipe, write_tiny_data

PROMPT = PromptConfig()
RATIONALES = tiny_rationales()


def merging(*merges: tuple[str, str], end: str = "</s>") -> PreTrainedTokenizerFast:
    """The byte tokenizer of the tests with longer tokens, each a pair of tokens before it."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<pad>", end])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token=end)


def tokens_of(student: LanguageModel, rationales: Sequence[Rationale] = RATIONALES) -> list[TokenizedRationale]:
    return encode_rationales(student, rationales, DataConfig(max_length=1000))[0]


def written_ids(tokens: TokenizedRationale) -> NDArray[np.int32]:
    return tokens.token_ids[tokens.segment_stops[0] :]


def asked_of(
    teacher: LanguageModel,
    student: LanguageModel,
    folder: Path,
    k: int = 259,
    rationales: Sequence[Rationale] = RATIONALES,
) -> dict[str, TopK]:
    """The teacher's distributions, rationale by rationale."""
    source = partial(distributions_of, teacher, translation(teacher, student), k=k, prompt=PROMPT)
    tokens = tokens_of(student, rationales)
    return dict(teacher_distributions(tokens, rationales, student, PROMPT, lambda: source, folder / "parts"))


def plain_logprobs(lm: LanguageModel, asked: Sequence[int], written: Sequence[int]) -> NDArray[np.float32]:
    """The log-softmax at each written token, [written, vocabulary], by one plain forward pass."""
    with torch.no_grad():
        if lm.encoder_decoder:
            decoded = torch.tensor([[lm.decoder_start_id, *written[:-1]]])
            logits = lm.model(input_ids=torch.tensor([list(asked)]), decoder_input_ids=decoded).logits[0]
        else:
            logits = lm.model(torch.tensor([[*asked, *written]])).logits[0, len(asked) - 1 : -1]
    found: NDArray[np.float32] = logits.log_softmax(-1).numpy()
    return found


def whole_rows(found: TopK, size: int) -> NDArray[np.float32]:
    """Every token's log-probability, [written, size]."""
    rows = np.full((len(found.token_ids), size), -np.inf, dtype=np.float32)
    for row, ids, logprobs in zip(rows, found.token_ids, found.logprobs, strict=True):
        kept = np.isfinite(logprobs)
        assert len(set(ids[kept].tolist())) == kept.sum()
        row[ids[kept]] = logprobs[kept]
    return rows


LLAMA, T5, TEACHER = tiny_llama(), tiny_t5(), tiny_llama(1)
PAIRS = {
    "causal": (LLAMA, TEACHER),
    "a start token": (tiny_llama(bos=True), tiny_llama(1, bos=True)),
    "both have encoders": (T5, tiny_t5(1)),
    "the teacher has an encoder": (LLAMA, tiny_t5(1)),
    "the student has an encoder": (T5, TEACHER),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_with_one_tokenizer_and_all_tokens_a_row_is_the_log_softmax(pair: str, tmp_path: Path) -> None:
    student, teacher = PAIRS[pair]
    found = asked_of(teacher, student, tmp_path)
    tokens = tokens_of(student)
    assert list(found) == [one.id for one in tokens]
    for one, rationale in zip(tokens, RATIONALES, strict=True):
        (reading,) = read_texts(
            teacher, [rationale.question], [student.tokenizer.decode(written_ids(one)[:-1]).strip()], PROMPT
        )
        rows = plain_logprobs(teacher, prompt_ids(teacher, rationale.question, PROMPT), reading.ids.tolist())
        more = len(rows) - len(written_ids(one))  # a causal model reads a space before the rationale
        told = whole_rows(found[one.id], 259)
        assert (more, found[one.id].num_one_hot) in ((0, 0), (1, 0), (-1, 1))
        np.testing.assert_allclose(told[max(0, -more) :], rows[max(0, more) :], rtol=1e-3, atol=1e-4)


def test_top_k_are_the_most_probable_whatever_a_pass_and_a_chunk_hold(tmp_path: Path, monkeypatch) -> None:
    every = asked_of(TEACHER, LLAMA, tmp_path / "all")
    monkeypatch.setattr(buckets, "TOKENS_PER_PASS", 1)
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", {"cpu": 7 * 259})
    some = asked_of(TEACHER, LLAMA, tmp_path / "some", k=5)
    for id_, found in some.items():
        assert found.logprobs.shape == (len(every[id_].logprobs), 5)
        np.testing.assert_allclose(found.logprobs, every[id_].logprobs[:, :5], rtol=2e-3, atol=1e-3)


MERGES = (("i", "n"), ("c", "u"), ("cu", "p"), ("cup", "s"), ("Ġ", "a"), ("Ġa", "d"), ("2", "4"))


def places(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> dict[tuple[int, int], int]:
    """Characters of each token -> its number; the texts are ASCII."""
    stops = np.cumsum([0, *(len(tokenizer.decode([id_])) for id_ in ids)]).tolist()
    return {(start, stop): number for number, (start, stop) in enumerate(pairwise(stops))}


@pytest.mark.parametrize("teacher_merges", [True, False])
def test_with_another_tokenizer_tokens_of_the_same_characters_have_the_teachers_distribution(
    teacher_merges: bool, tmp_path: Path
) -> None:
    """All others are one-hot; what the student has no token for is dropped, and the rest is not made larger."""
    student, teacher = (
        (LLAMA, model_with(merging(*MERGES))) if teacher_merges else (model_with(merging(*MERGES)), LLAMA)
    )
    found = asked_of(teacher, student, tmp_path, k=300)
    names = {student.tokenizer.convert_ids_to_tokens(id_): id_ for id_ in range(len(student.tokenizer))}
    shared = {
        id_: names[name] for name, id_ in teacher.tokenizer.get_vocab().items() if name in names and name != "<s>"
    }
    num_shared = num_lost = 0
    for one, rationale in zip(tokens_of(student), RATIONALES, strict=True):
        ids, text = written_ids(one), student.tokenizer.decode(written_ids(one)[:-1])
        read = teacher.tokenizer(text, add_special_tokens=False).input_ids
        rows = plain_logprobs(teacher, prompt_ids(teacher, rationale.question, PROMPT), [*read, teacher.end_id])
        theirs, mine = places(teacher.tokenizer, read), places(student.tokenizer, ids[:-1].tolist())
        theirs[len(text), len(text)], mine[len(text), len(text)] = len(read), len(ids) - 1
        told = whole_rows(found[one.id], len(student.tokenizer))
        for place, number in mine.items():
            expected = np.full(len(student.tokenizer), -np.inf)
            if place in theirs:
                for theirs_id, mine_id in shared.items():
                    expected[mine_id] = rows[theirs[place]][theirs_id]
                num_shared += 1
            else:
                expected[ids[number]] = 0
                num_lost += 1
            np.testing.assert_allclose(told[number], expected, rtol=1e-3, atol=1e-4)
    counted = coverage(found)
    assert (counted.rows, counted.one_hot) == (num_shared + num_lost, num_lost)
    assert num_shared > num_lost > 10
    assert counted.mass < 1 - 1e-3


def test_letters_of_several_bytes_are_paired_in_their_order(tmp_path: Path) -> None:
    odd = [replace(RATIONALES[0], text="Ångström → 6 é 🍎.")]
    (found,) = asked_of(model_with(merging(("h", "e"))), LLAMA, tmp_path, rationales=odd).values()
    assert found.num_one_hot == 2 * len("he")  # in "Therefore, the answer is"


def test_the_end_is_the_students_whatever_its_name(tmp_path: Path) -> None:
    found = asked_of(model_with(merging(end="<over>")), LLAMA, tmp_path)
    for one in found.values():
        assert END in one.token_ids[-1].tolist()
        assert one.num_one_hot == 0


@given(st.lists(st.integers(1, 4), min_size=1), st.lists(st.integers(1, 4), min_size=1))
def test_spans_are_aligned_where_they_are_equal(mine: list[int], theirs: list[int]) -> None:
    """Of tokens that tile the same characters; the longer text goes on where the shorter ends."""
    spans = [np.array(list(pairwise(np.cumsum([0, *sizes]))), dtype=np.int32) for sizes in (mine, theirs)]
    found = aligned(*spans)
    wanted = [next((n for n, b in enumerate(spans[1]) if (a == b).all()), -1) for a in spans[0]]
    assert found.tolist() == wanted


# -- vocabularies -------------------------------------------------------------------------------------------


def pieces(*names: str, byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of SentencePiece's kind."""
    vocabulary = [
        ("<unk>", -20.0),
        *((f"<0x{number:02X}>", -12.0) for number in range(256)),
        *((n, -2.0) for n in names),
    ]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=byte_fallback))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(["<pad>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")


def test_a_token_is_the_bytes_that_it_spells() -> None:
    of_pieces = pieces("A", "\u2581the", "\u2581")
    texts = token_texts(of_pieces)
    assert [texts[id_] for id_ in (0x41 + 1, 257, 258, 259, of_pieces.eos_token_id)] == [
        b"A",
        b"A",
        b" the",
        b" ",
        "</s>",
    ]
    assert ids_by_text(of_pieces)[b"A"] == 257
    of_bytes = token_texts(merging(("i", "n")))
    assert {of_bytes[id_] for id_ in range(256)} == {bytes([number]) for number in range(256)}
    assert of_bytes[256] == b"in"


def test_tokens_of_two_kinds_are_found_by_their_text() -> None:
    student = model_with(merging(("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")))
    teacher = replace(LLAMA, tokenizer=pieces("A", "\u2581the", "xyz"), vocabulary=None, end_id=261)
    found = translation(teacher, student).student_ids
    names = student.tokenizer.get_vocab()
    assert [found[id_] for id_ in (0, 257, 258, 259, 261)] == [-1, names["A"], names["Ġthe"], -1, student.end_id]
    assert found[0x41 + 1] == names["A"]


def test_what_several_tokens_of_the_teacher_say_is_added_and_the_rest_dropped() -> None:
    told = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    assert Translation(np.array([1, 1, -1, 0]), 3).of(told).exp()[0].tolist() == pytest.approx([0.4, 0.3, 0])
    assert Translation(np.array([2, 1, -1, 0]), 3).of(told).exp()[0].tolist() == pytest.approx([0.4, 0.2, 0.1])
    assert Translation(np.arange(3), 3).of(told).exp()[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert Translation(np.arange(9), 9).of(told).exp()[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, *[0] * 5])


# -- what goes wrong ------------------------------------------------------------------------------------------


def test_what_does_not_fit_the_teacher_is_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lengths = [len(one.token_ids) for one in tokens_of(LLAMA)]
    found = asked_of(model_with(byte_tokenizer(), context=max(lengths) - 1), LLAMA, tmp_path)
    counted = coverage(found)
    assert (counted.rationales, counted.without) == (6, 1)
    assert (
        f"1 rationales have none of the teacher's probabilities: longer than its context of {max(lengths) - 1}"
        in caplog.text
    )
    assert "1 rationales have none at all" in str(counted)
    with pytest.raises(DataError, match=r"no token of any rationale .* teacher\.logprobs\.model"):
        coverage({id_: one for id_, one in found.items() if one.num_one_hot == len(one.token_ids)})


def test_numbers_that_are_none_are_an_error(tmp_path: Path) -> None:
    broken = tiny_llama(1)
    with torch.no_grad():
        broken.model.lm_head.weight[:] = torch.nan  # type: ignore[union-attr,operator,index]
    with pytest.raises(DataError, match=r"rationale 'tiny-\d': the teacher's probabilities are not finite"):
        asked_of(broken, LLAMA, tmp_path)


def test_a_text_that_was_tokenised_otherwise_is_an_error(tmp_path: Path) -> None:
    tokens, other = tokens_of(LLAMA), [replace(RATIONALES[0], text="Another text.")]
    with pytest.raises(DataError, match="'tiny-0' reads otherwise"):
        list(teacher_distributions(tokens[:1], other, LLAMA, PROMPT, lambda: list, tmp_path))


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probabilities, "BLOCK", 2)
    source = partial(distributions_of, TEACHER, translation(TEACHER, LLAMA), k=3, prompt=PROMPT)
    asked: list[str] = []

    def dying(block: Sequence[Written]) -> list[TopK]:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.extend(one.rationale.id for one in block)
        return source(block)

    tokens = tokens_of(LLAMA)
    with pytest.raises(KeyboardInterrupt):
        teacher_distributions(tokens, RATIONALES, LLAMA, PROMPT, lambda: dying, tmp_path / "parts")
    (tmp_path / "parts" / "block.partial").write_bytes(b"torn")
    assert len(asked) == 4
    asked.clear()
    found = dict(teacher_distributions(tokens, RATIONALES, LLAMA, PROMPT, lambda: dying, tmp_path / "parts"))
    assert len(asked) == 2
    at_once = asked_of(TEACHER, LLAMA, tmp_path / "whole", k=3)
    assert list(found) == list(at_once)
    for id_, one in found.items():
        np.testing.assert_allclose(one.logprobs, at_once[id_].logprobs, rtol=2e-3, atol=1e-3)

    def refuse() -> probabilities.Source:
        raise AssertionError("a teacher is loaded though all is done")

    again = dict(teacher_distributions(tokens, RATIONALES, LLAMA, PROMPT, refuse, tmp_path / "parts"))
    assert all(np.array_equal(again[id_].token_ids, one.token_ids) for id_, one in found.items())


# -- what a teacher told of its own answers ----------------------------------------------------------------------


def told(text: str, *pieces: tuple[str, float, dict[str, float]]) -> tuple[TokenLogprob, ...]:
    """Log-probabilities of the tokens that spell a text."""
    assert "".join(piece for piece, *_ in pieces) == text
    stops = np.cumsum([len(piece) for piece, *_ in pieces]).tolist()
    return tuple(
        TokenLogprob((stop - len(piece), stop), logprob, top)
        for stop, (piece, logprob, top) in zip(stops, pieces, strict=True)
    )


def test_what_came_with_an_answer_is_found_by_its_characters(tmp_path: Path) -> None:
    """The text begins behind a greeting, and ends in the teacher's own words, not in the student's."""
    text = "Hi! 6 in. So 6!"
    logprobs = told(
        text,
        ("Hi! ", -0.5, {}),
        ("6", -0.25, {"6": -0.25, "7": -2.0, "seven": -3.0, "\ud83d": -4.0}),
        (" ", -1.0, {"x": -0.5}),
        ("in", -0.125, {"in": -0.125}),
        (".", -9999.0, {"!": -4.0}),
        (" So 6!", -1.0, {}),
    )
    one = replace(RATIONALES[0], text="6 in.")
    asked = Asked((), {"k": Attempt("k", "answered", text, logprobs=logprobs)}, {})
    gathered = Gathered([one], [one], [], asked, {one.id: Explained(one, "k", 4)})
    source = by_answers(gathered, LLAMA, 3)
    tokens = tokens_of(LLAMA, [one])
    ((_, found),) = teacher_distributions(tokens, [one], LLAMA, PROMPT, lambda: source, tmp_path)
    rows = [
        {LLAMA.tokenizer.decode([id_]): value for id_, value in zip(ids, row, strict=True) if np.isfinite(value)}
        for ids, row in zip(found.token_ids.tolist(), found.logprobs.tolist(), strict=True)
    ]
    assert rows[:6] == [{" ": 0}, {"6": -0.25, "7": -2}, {"x": -0.5, " ": -1}, {"i": 0}, {"n": 0}, {"!": -4}]
    assert all(row == {char: 0} for row, char in zip(rows[6:], " Therefore, the answer is", strict=False))
    silent = replace(gathered, asked=Asked((), {"k": Attempt("k", "answered", text)}, {}))
    source = by_answers(silent, LLAMA, 3)
    nothing = dict(teacher_distributions(tokens, [one], LLAMA, PROMPT, lambda: source, tmp_path / "silent"))
    with pytest.raises(DataError, match="the endpoint told none"):
        coverage(nothing)


# -- the phase --------------------------------------------------------------------------------------------------


def _by_mass(given: Given) -> ByRationale:
    """Weights of the rationale tokens from what the teacher expects there."""
    return {one.id: np.minimum(given.teacher_logprobs[one.id].mass[: one.num_tokens], 1) for one in given.tokens}


taught = Part("taught", lambda given: given.teacher_logprobs, parts.TAUGHT)
TAUGHT = Method("Taught", Part("by_mass", _by_mass, parts.TAUGHT), uniform, whole)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_data(tmp_path_factory.mktemp("data"))
    TEACHER.model.save_pretrained(folder / "teacher")  # type: ignore[operator]
    TEACHER.tokenizer.save_pretrained(folder / "teacher")
    return folder


@pytest.fixture(autouse=True)
def _taught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "taught", TAUGHT)  # type: ignore[arg-type]


def taught_recipe(data: Path, runs: Path, *overrides: str, method: str = "taught") -> Recipe:
    return replace(
        recipe(data, runs, "llama", *overrides),
        method=method,
        teacher=TeacherConfig(logprobs=LogprobsConfig(str(data / "teacher"), 4)),
    )


def test_the_phase_is_made_for_the_methods_that_need_it_and_shared(data: Path, tmp_path: Path, monkeypatch) -> None:
    found = taught_recipe(data, tmp_path)
    run = Pipeline(found)
    given = run.given(taught)
    assert {id_: len(one.token_ids) for id_, one in taught.run(given).items()} == {
        one.id: len(written_ids(one)) for one in run.tokens
    }
    folder = tmp_path / "tiny" / "teacher_logprobs"
    counted = json.loads((folder / artifacts.SUMMARY).read_text(encoding="utf-8"))
    assert (counted["rationales"], counted["one_hot"]) == (6, 0)
    assert not list((tmp_path / ".phases").glob(".*.parts"))
    monkeypatch.setattr("kpod.teacher.probabilities.load_model", None)
    again = Pipeline(replace(found, name="other"))
    assert list(again.by(TAUGHT.weigh)) == [one.id for one in run.tokens]
    for changed, same in (
        (replace(found, method="scotd"), None),
        (replace(found, data=replace(found.data, step_rule="line")), True),
        (replace(found, schedule=replace(found.schedule, num_clusters=1)), True),
        (replace(found, data=replace(found.data, prompt=PromptConfig(closing="So {answer}"))), False),
        (replace(found, precision="bf16"), False),
        (replace(found, teacher=TeacherConfig(logprobs=LogprobsConfig(str(data / "llama"), 4))), False),
        (replace(found, teacher=TeacherConfig(logprobs=LogprobsConfig(str(data / "teacher"), 5))), False),
    ):
        keys = Pipeline(changed).keys
        assert same is (
            keys["teacher_logprobs"] == run.keys["teacher_logprobs"] if "teacher_logprobs" in keys else None
        )
    moved = shutil.copytree(data / "teacher", tmp_path / "moved")
    by_content = replace(found, teacher=TeacherConfig(logprobs=LogprobsConfig(str(moved), 4, "fp32")))
    assert Pipeline(by_content).keys == run.keys


def test_a_method_that_needs_a_teacher_says_so_before_anything_is_done(data: Path, tmp_path: Path) -> None:
    asked = TeacherConfig(ask=AskConfig("m"))
    for teacher in (TeacherConfig(), asked):
        with pytest.raises(
            ConfigError, match=r"teacher\.logprobs is None; it must be a model, or teacher\.ask\.logprobs"
        ):
            Pipeline(replace(recipe(data, tmp_path), method="taught", teacher=teacher))
    told_too = replace(asked, ask=AskConfig("m", logprobs=5))
    Pipeline(replace(recipe(data, tmp_path), method="taught", teacher=told_too))


@pytest.mark.slow
def test_a_local_teacher_that_wrote_the_rationales_need_not_read_them_again(data: Path, tmp_path: Path) -> None:
    """What it told of its own tokens is what it expected there, also in the middle of the run's phases."""
    teacher = model_with(ascii_tokenizer())
    teacher.model.save_pretrained(tmp_path / "writer")  # type: ignore[operator]
    teacher.tokenizer.save_pretrained(tmp_path / "writer")
    prompt = TeacherPromptConfig(template="{{ question }}")
    ask = AskConfig(
        str(tmp_path / "writer"), backend="local", precision="fp32", max_tokens=300, logprobs=4, prompt=prompt
    )
    found = replace(taught_recipe(data, tmp_path), teacher=TeacherConfig(ask=ask, filter="none"))
    run = Pipeline(found)
    distributions, gathered = run.made("teacher_logprobs"), run.data.gathered
    assert gathered.asked is not None
    assert len(run.tokens) > 3
    for one in run.tokens:
        place, told_ = gathered.places[one.id], distributions[one.id]
        attempt = gathered.asked.attempts[place.key]
        request = next(request for request in gathered.asked.requests if request.key == place.key)
        written = teacher.tokenizer(attempt.text).input_ids
        asked = chat_ids(teacher, request.messages)
        rows = plain_logprobs(teacher, asked, written)
        assert attempt.logprobs is not None
        own = rows[np.arange(len(written)), written]
        if len(written) == attempt.completion_tokens:  # no space was cut from it
            np.testing.assert_allclose([token.logprob for token in attempt.logprobs], own, rtol=1e-3, atol=1e-4)
            middle = slice(2, one.num_tokens)  # behind the space that the student writes first
            best = np.sort(rows, axis=1)[:, ::-1][place.start :]
            first = told_.logprobs[middle, 0].astype(np.float32)
            np.testing.assert_allclose(first, best[1 : len(first) + 1, 0], rtol=2e-3, atol=1e-3)
        assert (told_.logprobs.shape[1], told_.num_one_hot) == (5, len(told_.token_ids) - one.num_tokens + 1)
    fewer = replace(found, teacher=replace(found.teacher, ask=replace(ask, logprobs=3)))
    assert Pipeline(fewer).keys["told"] != run.keys["told"]
