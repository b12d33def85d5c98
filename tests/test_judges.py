"""The judges of learnt token weights: classes of words, operation words, and the causal oracle."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import oracle
import oracle_making
import oracle_words
from oracle_words import Replaced
from word_classes import class_of_word, first_step_size, in_first_step, num_operation_words, token_classes
from word_judges import auc, first_step_words, first_step_words_rise, operation_words_auc, weights_by_class

from kpod.records import Question, Rationale, TokenizedRationale
from kpod.records.errors import DataError
from kpod.weighting.given import digit_rule_weights
from tiny import int32, tiny_llama, tiny_rationales

FORMS = {
    "operation": (
        "add adds added adding addition subtract subtracts subtracted subtracting subtraction multiply multiplies "
        "multiplied multiplying multiplication divide divides divided dividing division plus minus times sum sums "
        "product products twice half halves Adding SUM half-full"
    ),
    "quantity": "two twelve dozen third fifths hundred twenty-five double once quarter Seven first one-fifth",
    "comparison": "more less fewer than left remaining remains each total altogether rest per difference Left equal",
    "other": "apples Tom's addressed timer additive multiple production production-line wholesale T-shirt surplus",
}


def in_tokens(text: str, pieces: list[str], id: str = "q", **more: Any) -> TokenizedRationale:  # noqa: A002
    """A rationale whose tokens are these pieces, which tile its text."""
    stops = np.cumsum([len(piece) for piece in pieces]).tolist()
    assert "".join(pieces) == text
    size = len(pieces)
    stop = more.pop("first_step", size)
    steps = (stop,) if stop == size else (stop, size)
    ids, spans = int32([1] * (size + 4)), int32(list(zip([0, *stops[:-1]], stops, strict=True)))
    return TokenizedRationale(id, ids, (1, 1 + size, 2 + size, 3 + size, 4 + size), steps, spans, **more)


# -- classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in FORMS.items() for word in words.split()])
def test_words_have_their_class(name: str, word: str) -> None:
    assert class_of_word(word) == name


@pytest.mark.parametrize(
    ("pieces", "classes"),
    [
        (["sub", "tract", "ing", " 6"], ["operation", "operation", "operation", "number"]),
        ([" $", "1", ",", "2", "00", "."], ["operator", "number", "number", "number", "number", "punctuation"]),
        (["T", "-", "shirt", " - ", "3"], ["other", "other", "other", "operator", "number"]),
        (["the", " 3", "rd", "\n\n", "times"], ["other", "number", "number", None, "operation"]),
        (["=$5", " ×", "2", "%", ":)"], ["operator", "operator", "number", "operator", "punctuation"]),
        (["twenty", "-", "five", " left"], ["quantity", "quantity", "quantity", "comparison"]),
        (["halb", "é", "é"], ["other"] * 3),
        (["3", " x", " 4", " box", "x"], ["number", "operator", "number", "other", "other"]),
    ],
)
def test_a_token_has_the_class_of_its_word(pieces: list[str], classes: list[str | None]) -> None:
    text = "".join(pieces)
    assert token_classes(in_tokens(text, pieces).char_spans, text) == classes


def test_tokens_of_one_character_share_its_class() -> None:
    assert token_classes([(0, 1), (0, 1), (1, 2)], "é7") == ["other", "other", "number"]


def test_operation_words_are_counted() -> None:
    assert num_operation_words(["Add 3 and 4. The sum is 7.", "Nothing.", "He added half, 2 times."]) == 5


def test_the_first_step_is_that_of_the_split() -> None:
    text, pieces = "Add 3. Then 4.", ["Add", " 3", ".", " Then", " 4", "."]
    tokens = in_tokens(text, pieces, first_step=3)
    assert first_step_size(tokens.char_spans, text) == 3
    assert in_first_step(tokens).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("text", ["a-" * 50_000, "1." * 50_000, "9" * 100_000, "'" * 100_000, "st" * 50_000])
@pytest.mark.timeout(10)
def test_classes_take_linear_time(text: str) -> None:
    assert len(token_classes([(0, len(text))], text)) == 1


# -- operation words ----------------------------------------------------------------------------------------------


TEXT = "We add 3 and two. So the sum is 5."
PIECES = ["We", " add", " 3", " and", " two", ".", " So", " the", " sum", " is", " 5", "."]
WEIGHTS = {"q": np.array([0.2, 0.9, 1.0, 0.1, 0.9, 0.0, 0.3, 0.5, 0.4, 0.4, 1.0, 0.0], dtype=np.float32)}


def test_the_auc_of_operation_words_is_as_worked_by_hand() -> None:
    tokens = in_tokens(TEXT, PIECES, first_step=6)
    figures = operation_words_auc([tokens], {"q": TEXT}, WEIGHTS)
    # add 0.9 against We 0.2, and 0.1, two 0.9; sum 0.4 against So 0.3, the 0.5, is 0.4
    assert figures["auc_operation_words_first_step"] == pytest.approx(2.5 / 3)
    assert figures["auc_operation_words_later_steps"] == pytest.approx(1.5 / 3)
    # of both together: add beats five of six and ties with one; sum beats three, ties with one
    assert figures["auc_operation_words"] == pytest.approx((5.5 + 3.5) / 12)
    assert figures["num_operation_words"] == 2


def test_the_digit_rule_cannot_tell_words_apart() -> None:
    tokens = in_tokens(TEXT, PIECES, first_step=6)
    rule = digit_rule_weights([tokens], {"q": TEXT})
    assert operation_words_auc([tokens], {"q": TEXT}, rule)["auc_operation_words"] == 0.5
    assert weights_by_class([tokens], {"q": TEXT}, rule)["auc_quantity"] == 0.5


def test_planted_fillers_are_no_words_to_be_told_apart() -> None:
    tokens = in_tokens(TEXT, PIECES, first_step=6)
    fillers = {"q": [(0, 2), (18, 24)]}  # We; " So the"
    figures = operation_words_auc([tokens], {"q": TEXT}, WEIGHTS, fillers)
    assert figures["auc_operation_words_first_step"] == pytest.approx(1.5 / 2)
    assert figures["auc_operation_words_later_steps"] == pytest.approx(0.5)
    assert weights_by_class([tokens], {"q": TEXT}, WEIGHTS, fillers)["num_filler"] == 3


def test_weights_by_class_are_means_and_spreads() -> None:
    figures = weights_by_class([in_tokens(TEXT, PIECES)], {"q": TEXT}, WEIGHTS)
    assert figures["mean_operation"] == pytest.approx(0.65)
    assert figures["sd_operation"] == pytest.approx(0.25)
    assert figures["num_other"] == 5
    assert figures["auc_quantity"] == 1
    assert math.isnan(figures["auc_comparison"])


def test_an_auc_without_pairs_is_no_number() -> None:
    assert math.isnan(auc([], [0.3]))
    assert auc([0.5, 0.1], [0.3]) == 0.5


def test_only_operation_words_before_the_answer_in_the_first_step_are_masked() -> None:
    text = "We add 3. The sum 5 times."
    tokens = in_tokens(text, ["We", " add", " 3", ".", " The", " sum", " 5", " times", "."], before_answer=6)
    assert np.flatnonzero(first_step_words(tokens, text)).tolist() == [1, 5]
    assert np.flatnonzero(first_step_words(replace(tokens, step_stops=(4, 9)), text)).tolist() == [1]
    assert not first_step_words(replace(tokens, before_answer=None), text).any()


def test_the_rise_is_that_of_the_masked_prefix() -> None:
    text, pieces = "We add 3 or sum 5.", ["We", " add", " 3", " or", " sum", " 5", "."]
    asked = []

    def predictor(rows: list[Any]) -> torch.Tensor:
        asked.extend(row.prefixes for row in rows)
        return torch.tensor([[2.0 + 0.5 * float((~row.keep).sum())] for row in rows])

    tokens = [in_tokens(text, pieces, id="a", before_answer=5), in_tokens(text, pieces, id="b", before_answer=4)]
    without = in_tokens(text, pieces, id="c")
    found = first_step_words_rise(predictor, [*tokens, without], dict.fromkeys("abc", text))  # type: ignore[arg-type]
    assert found["first_step_words_rise"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["first_step_words_rise_se"] == pytest.approx(0.25)
    assert found["first_step_words_rise_num"] == 2
    assert sorted(set(asked)) == [(4,), (5,)]
    with pytest.raises(DataError, match="fewer than two"):
        first_step_words_rise(predictor, tokens[:1], {"a": text})  # type: ignore[arg-type]


# -- the oracle's words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(17 plums) - 3 = $14.", ["17", "plums", "-", "3", "=", "$14"]),
        ("So: Tom's T-shirts, 3.50!\n\n* one", ["So", "Tom's", "T-shirts", "3.50", "one"]),
        ("... -- “He” ×", ["--", "He", "×"]),
        ("", []),
    ],
)
def test_words_stand_between_white_space_without_punctuation(text: str, words: list[str]) -> None:
    assert [text[slice(*span)] for span in oracle_words.words_of(text)] == words


@pytest.mark.parametrize(
    ("word", "replacement", "another"),
    [
        ("plums", "pears", True),
        ("plums", "Plums,", False),
        ("plums", "plum", False),
        ("subtract", "subtracting", False),
        ("17", "12", True),
        ("17", "$17", False),
        ("17", "17.0", False),
        ("17", "5", False),  # the answer
        ("=", "==", False),
        ("=", "-", True),
        ("a", "an", True),
        ("we", "**", True),
        ("we", "...", False),
    ],
)
def test_a_replacement_reads_as_another_word(word: str, replacement: str, another: bool) -> None:
    assert oracle_words.is_another(word, replacement, "5") is another


def test_only_words_before_the_first_mention_are_replaced() -> None:
    rationale = Rationale("q", Question("q", "?", "4"), "He had 21 - 17 = 4 plums, so 4.")
    assert [rationale.text[slice(*s)] for s in oracle_words.replaceable(rationale)] == [
        "He",
        "had",
        "21",
        "-",
        "17",
        "=",
    ]


def test_words_are_drawn_from_all_parts_of_the_text() -> None:
    words = [(place, place + 1) for place in range(0, 40, 2)]
    found = oracle_words.drawn(words, 5, seed=3)
    assert [place // 8 for place, _ in found] == [0, 1, 2, 3, 4]
    assert oracle_words.drawn(words, 20, seed=0) == words
    assert found == oracle_words.drawn(words, 5, seed=3)


@pytest.mark.parametrize(
    ("text", "right"),
    [("so 3 * 4 = 12", True), ("The answer is 12. 7", True), ("The answer is 7. 12", False), ("nothing", False)],
)
def test_a_text_reaches_gold_by_its_statement_or_else_its_last_number(text: str, right: bool) -> None:
    assert oracle_words.reaches(text, "12") is right


def test_without_data_the_oracle_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KPOD_DATA", raising=False)
    with pytest.raises(DataError, match="KPOD_DATA"):
        oracle_words.right_rationales("svamp")


# -- the oracle's making ------------------------------------------------------------------------------------------


def test_what_is_shared_with_the_rationale_changes_no_logits() -> None:
    lm, rationale = tiny_llama(), tiny_rationales()[0]
    asked = oracle_making.Asked(lm, rationale)
    texts = [rationale.text[:9], rationale.text[:4] + "bowls", "", rationale.text + " And"]
    with torch.no_grad():
        reading = oracle_making.Reading(asked, [asked.ids(text) for text in texts])
        rows = [[*asked.prompt, *asked.ids(text)] for text in texts]
        for row, logits in zip(rows, reading.logits, strict=True):
            torch.testing.assert_close(logits, lm.model(torch.tensor([row])).logits[0, -1], rtol=1e-4, atol=1e-4)
        reading.repeat(2)
        reading.keep(torch.tensor([0, 3, 7]))
        reading.write(torch.tensor([65, 66, 67]))
        for row, logits in zip([[*rows[0], 65], [*rows[1], 66], [*rows[3], 67]], reading.logits, strict=True):
            torch.testing.assert_close(logits, lm.model(torch.tensor([row])).logits[0, -1], rtol=1e-4, atol=1e-4)


def test_tokens_are_drawn_by_their_probability() -> None:
    chances = torch.zeros(2500)
    chances[[3, 1024, 2499]] = torch.tensor([0.5, 0.3, 0.2])
    drawn = oracle_making.draw(chances.log().expand(1000, -1), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=2500) / 1000
    assert set(drawn.tolist()) == {3, 1024, 2499}
    torch.testing.assert_close(shares, chances, atol=0.06, rtol=0)


def test_continuations_never_go_on_within_the_word() -> None:
    lm, rationale = tiny_llama(), tiny_rationales()[0]
    asked, rng = oracle_making.Asked(lm, rationale), torch.Generator().manual_seed(0)
    found = oracle_making.continuations(asked, [rationale.text[:3], rationale.text[:10]], 20, rng, new_tokens=3)
    assert [len(texts) for texts in found] == [20, 20]
    assert not any(text[:1].isalnum() for texts in found for text in texts)
    assert len({text for texts in found for text in texts}) > 10


def test_replacements_start_with_another_token_and_keep_the_white_space() -> None:
    lm, rationale = tiny_llama(), tiny_rationales()[1]
    asked, words = oracle_making.Asked(lm, rationale), oracle_words.replaceable(rationale)
    with torch.no_grad():
        tried = oracle_making.likeliest(asked, rationale.text, words)
    for (start, _), candidates in zip(words, tried, strict=True):
        assert len(candidates) == oracle_making.TRIED
        for before, ids in candidates:
            assert lm.tokenizer.decode(before) == rationale.text[:start].removesuffix(" ")
            assert len(ids) == (2 if start else 1)
            assert lm.tokenizer.decode(ids[:-1]) == ("" if start == 0 else " ")
            assert lm.tokenizer.decode(ids[-1:]) != rationale.text[start]


def test_a_replaced_word_leaves_the_rest_and_its_counts_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rationale = Rationale("q", Question("q", "?", "4"), "He had 21 plums - 17 = 4 plums.")
    seen: list[list[str]] = []

    def continuations(asked: object, prefixes: list[str], number: int, rng: object) -> list[list[str]]:
        seen.append(prefixes)
        return [[" 4"] * (1 if "bad" in prefix else number) + [" 5"] * 9 for prefix in prefixes]

    monkeypatch.setattr(oracle_making, "Asked", lambda *_: None)
    monkeypatch.setattr(oracle_making, "continuations", continuations)
    monkeypatch.setattr(oracle_making, "replacements", lambda _, __, words: ["bad", None, *["bad"] * (len(words) - 2)])
    rows = oracle_making.made(None, "svamp", rationale, 3, 6)  # type: ignore[arg-type]
    (_, prefixes), num = seen, len(rows)
    assert num == 2
    for row, unchanged, replaced in zip(rows, prefixes[:num], prefixes[num:], strict=True):
        assert unchanged == rationale.text[: row.stop]
        assert replaced == rationale.text[: row.start] + "bad"
        assert (row.reached, row.reached_replaced, row.samples, row.importance) == (6, 1, 6, pytest.approx(5 / 6))


def test_a_rationale_whose_answer_the_model_seldom_reaches_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rationale = Rationale("q", Question("q", "?", "4"), "He had 21 plums - 17 = 4 plums.")
    monkeypatch.setattr(oracle_making, "Asked", lambda *_: None)
    monkeypatch.setattr(oracle_making, "continuations", lambda *_: [["4"] * 3 + ["5"] * 5])
    assert oracle_making.made(None, "svamp", rationale, 3, 6) == []  # type: ignore[arg-type]


def test_making_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(id: str, file: str) -> Replaced:  # noqa: A002
        return Replaced(id, file, 0, 2, "x", 5, 1, 6)

    names = {"asdiv": ["a0", "a1", "a2", "a3"], "svamp": ["s0", "s1", "s2"]}
    monkeypatch.setattr(
        oracle_making, "candidates", lambda file: [Rationale(n, Question(n, "?", "4"), "x") for n in names[file]]
    )
    monkeypatch.setattr(
        oracle_making, "made", lambda _, file, r, *__: [] if r.id == "a1" else [row(r.id, file), row(r.id, file)]
    )
    whole = [rows[0].id for rows in oracle_making.make(None, [], 3, 1, 6)]  # type: ignore[arg-type]
    assert sorted(whole) == ["a0", "a2", "a3", "s0", "s1", "s2"]
    assert {name[0] for name in whole[:2]} == {"a", "s"}
    found = [row("a0", "asdiv"), row("s0", "svamp"), row("s1", "svamp")]
    rest = [rows[0].id for rows in oracle_making.make(None, found, 3, 1, 6)]  # type: ignore[arg-type]
    assert sorted(rest) == ["a2", "a3", "s2"]


# -- reading the oracle --------------------------------------------------------------------------------------------


def rows_of(id: str, file: str, text: str, importances: list[float]) -> list[Replaced]:  # noqa: A002
    spans = oracle_words.words_of(text)[: len(importances)]
    return [
        Replaced(id, file, *span, "x", 10, round(10 - 10 * i), 10) for span, i in zip(spans, importances, strict=True)
    ]


TEXTS = {"a": "He adds 3 plums", "b": "We see twelve more", "s": "So - left"}
ROWS = [
    *rows_of("a", "asdiv", TEXTS["a"], [0.0, 0.5, 1.0, 0.2]),
    *rows_of("b", "asdiv", TEXTS["b"], [0.1, 0.3, 0.6, 0.4]),
    *rows_of("s", "svamp", TEXTS["s"], [0.3, 0.3, 0.3]),
]


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "RESAMPLES", 200)

    def known(files: dict[str, str]) -> dict[str, Rationale]:
        return {id_: Rationale(id_, Question(id_, "?", "4"), TEXTS[id_]) for id_ in files}

    monkeypatch.setattr(oracle, "by_id", known)


def by_words(id: str, weights: list[float]) -> list[tuple[int, int, float]]:  # noqa: A002
    return [(start, stop, w) for (start, stop), w in zip(oracle_words.words_of(TEXTS[id]), weights, strict=True)]


@pytest.mark.usefixtures("texts")
def test_spearman_is_as_worked_by_hand() -> None:
    weights = {
        "a": by_words("a", [0.1, 0.5, 0.9, 0.3]),  # as the importance
        "b": by_words("b", [0.9, 0.5, 0.1, 0.3]),  # the other way round
        "s": by_words("s", [0.1, 0.2, 0.3]),  # all of one importance: left out
    }
    found = oracle.oracle_spearman(weights, ROWS)
    assert found["within"] == pytest.approx(0.0)
    # the rule's ranks in a are 2, 2, 4, 2, the importance's 1, 3, 4, 2; in b it ranks nothing
    assert found["within_digit_rule"] == pytest.approx(math.sqrt(0.6) / 2)
    assert found["within_difference"] == pytest.approx(-math.sqrt(0.6) / 2)
    assert (found["within_low"], found["within_high"]) == (-1, 1)
    assert (found["num_words"], found["num_rationales"]) == (11, 3)
    assert (found["alike_num_words"], found["alike_num_rationales"]) == (9, 3)
    assert found["alike_within_digit_rule"] == found["alike_pooled_digit_rule"] == 0
    assert found["alike_within"] == pytest.approx(0.0)


@pytest.mark.usefixtures("texts")
def test_all_words_together_are_ranked_across_rationales() -> None:
    weights = {id_: by_words(id_, [row.importance for row in ROWS if row.id == id_]) for id_ in "ab"}
    found = oracle.oracle_spearman(weights, ROWS)
    assert found["pooled"] == found["within"] == pytest.approx(1)
    assert found["pooled_low"] == pytest.approx(1)
    assert -1 <= found["pooled_digit_rule_low"] <= found["pooled_digit_rule"] <= found["pooled_digit_rule_high"] <= 1


@pytest.mark.usefixtures("texts")
def test_weights_are_of_whole_data_sets() -> None:
    weights = {id_: by_words(id_, [0.1, 0.2, 0.3, 0.4]) for id_ in "ab"}
    assert oracle.oracle_spearman(weights, ROWS)["num_rationales"] == 2
    with pytest.raises(DataError, match="no weights for rationale 'b' of asdiv"):
        oracle.oracle_spearman({"a": weights["a"]}, ROWS)
    with pytest.raises(DataError, match="none of its rationales"):
        oracle.oracle_spearman({"z": []}, ROWS)


def test_a_word_weighs_the_mean_or_the_largest_of_its_characters() -> None:
    spans = [(0, 2, 0.2), (2, 4, 0.8), (5, 6, 0.5)]
    rows = [Replaced("a", "asdiv", 0, 4, "x", 1, 1, 2), Replaced("a", "asdiv", 3, 6, "x", 1, 1, 2)]
    assert oracle.word_weights(rows, spans, "mean").tolist() == pytest.approx([0.5, 1.3 / 3])
    assert oracle.word_weights(rows, spans, "max").tolist() == pytest.approx([0.8, 0.8])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "oracle.jsonl"
    oracle.write_oracle(path, ROWS)
    assert oracle.read_oracle(path) == ROWS
    assert [p.name for p in tmp_path.iterdir()] == ["oracle.jsonl"]
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=f"line {len(ROWS)}"):
        oracle.read_oracle(path)
    with pytest.raises(DataError, match="--make"):
        oracle.read_oracle(tmp_path / "none.jsonl")


@pytest.mark.parametrize("wrong", [{"reached": 7}, {"reached_replaced": -1}, {"stop": 0}, {"samples": 0}])
def test_a_row_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    row = asdict(Replaced("a", "asdiv", 0, 2, "x", 5, 1, 6))
    with pytest.raises(DataError, match="'a'"):
        Replaced(**(row | wrong))


def test_the_facts_part_importance_from_chance() -> None:
    sure = [Replaced("a", "asdiv", 0, 2, "x", 10, 0, 10), Replaced("a", "asdiv", 3, 5, "x", 10, 10, 10)]
    assert oracle.facts(sure)["reliability"] == 1
    assert oracle.facts(sure)["reached_replaced"] == 0.5
    chance = [replace(sure[0], reached=5, reached_replaced=4), replace(sure[1], reached=4, reached_replaced=5)]
    assert oracle.facts(chance)["reliability"] < 0


def test_the_published_oracle_holds_places_counts_and_the_models_own_words_alone() -> None:
    rows = oracle.read_oracle()
    assert {row.file for row in rows} == set(oracle_words.FILES)
    assert len({(row.id, row.start) for row in rows}) == len(rows)
    assert max(len(row.replacement) for row in rows) < 40
    for line in oracle.ORACLE.read_text(encoding="utf-8").splitlines():
        assert list(json.loads(line)) == [
            *("id", "file", "start", "stop", "replacement", "reached", "reached_replaced", "samples")
        ]
