"""A teacher's probabilities at every token that the student writes: a local model's, or those that an endpoint told."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpod.lm.forcing import expected
from kpod.lm.layout import TextLayout
from kpod.lm.models import LanguageModel, load_model
from kpod.lm.processes import agreed, own_share, wait_for_all
from kpod.lm.readings import Reading, aligned, read_texts, written_texts
from kpod.lm.vocabularies import TokenText, Translation, ids_by_text, translation
from kpod.recipe import LogprobsConfig, PromptConfig, TeacherConfig
from kpod.records import Rationale, TokenizedRationale
from kpod.records.errors import ConfigError, DataError
from kpod.records.files import flush_to_disk
from kpod.records.progress import ProgressBar
from kpod.records.topk import TopK, TopKById, write_topk
from kpod.teacher.attempts import Attempt, TokenLogprob
from kpod.teacher.gathering import Gathered
from kpod.teacher.replies import IMPOSSIBLE

log = logging.getLogger(__name__)

BLOCK = 128
"""Rationales that are kept together: what a kill may lose."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a student writes for a rationale.

    Attributes:
        rationale: The rationale, with its question.
        text: It with the closing words and the answer.
        reading: The text in the student's tokens.
    """

    rationale: Rationale
    text: str
    reading: Reading


Source: TypeAlias = Callable[[Sequence[Written]], list[TopK]]
"""Gives the distributions of some texts, each over the student's tokens."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of what students write has a teacher's distribution.

    Attributes:
        rationales: How many there are.
        without: How many of them have no token with a distribution.
        rows: Tokens that the student writes.
        one_hot: Tokens whose whole probability is on one token: almost all are those without a distribution.
        mass: The mean probability that the stored entries of the other tokens have together.
    """

    rationales: int
    without: int
    rows: int
    one_hot: int
    mass: float

    def __str__(self) -> str:
        share = self.one_hot / self.rows if self.rows else 0.0
        return (
            f"the teacher's probabilities of {self.rationales:,} rationales: {share:.1%} of {self.rows:,} tokens have "
            f"none (one-hot), and {self.without:,} rationales have none at all; {self.mass:.1%} of the probability is "
            "stored for the others"
        )


def teacher_distributions(
    tokens: Sequence[TokenizedRationale],
    rationales: Sequence[Rationale],
    student: TextLayout,
    prompt: PromptConfig,
    source: Callable[[], Source],
    parts: Path,
) -> Iterator[tuple[str, TopK]]:
    """The distribution of a teacher at every token that the student writes, rationale by rationale.

    What is done is kept block by block in a folder, from which a run that was killed goes on. Several processes share
    the blocks.

    Args:
        tokens: The rationales in the student's tokens.
        rationales: Those rationales; others may be among them.
        student: The student's tokenizer and special ids.
        prompt: The words around a question.
        source: Makes the source of the distributions. It is not called where all is done.
        parts: The folder, of this source and these rationales alone.

    Yields:
        Id and distributions, in the order of `tokens`.

    Raises:
        DataError: If a rationale reads otherwise than when it was tokenised, or the teacher's numbers are not finite.
    """
    parts.mkdir(parents=True, exist_ok=True)
    done = agreed(_ids_in(parts))
    left = sorted((one for one in tokens if one.id not in done), key=lambda one: -len(one.token_ids))
    starts = own_share(range(0, len(left), BLOCK))
    if starts:
        by_id, distributions = {one.id: one for one in rationales}, source()
        with ProgressBar(total=len(tokens), done=len(done), name="teacher", unit="rationales") as progress:
            for start in starts:
                block = left[start : start + BLOCK]
                found = distributions(_written(student, block, [by_id[one.id] for one in block], prompt))
                _keep(parts, block[0].id, zip([one.id for one in block], found, strict=True))
                progress.update(len(block))
    wait_for_all()
    held = [TopKById(path) for path in sorted(parts.glob("*.arrow"))]
    place = {id_: part for part in held for id_ in part}
    return ((one.id, place[one.id][one.id]) for one in tokens)


def _ids_in(parts: Path) -> set[str]:
    return {id_ for path in parts.glob("*.arrow") for id_ in TopKById(path)}


def _keep(parts: Path, first: str, rows: Iterator[tuple[str, TopK]]) -> None:
    """Write a block through to the disk, under the hash of its first id; it is there whole or not at all."""
    name = hashlib.sha256(first.encode()).hexdigest()[:16]
    partial = parts / f"{name}.partial"
    write_topk(partial, rows)
    flush_to_disk(partial)
    partial.rename(parts / f"{name}.arrow")


def _written(
    student: TextLayout, tokens: Sequence[TokenizedRationale], rationales: Sequence[Rationale], prompt: PromptConfig
) -> list[Written]:
    texts = written_texts(student, rationales, prompt)
    readings = read_texts(student, [one.question for one in rationales], texts, prompt)
    found = []
    for one, rationale, text, reading in zip(tokens, rationales, texts, readings, strict=True):
        if isinstance(reading, str) or not np.array_equal(reading.ids, one.token_ids[one.segment_stops[0] :]):
            raise DataError(f"rationale {one.id!r} reads otherwise than in its tokens; delete the folder of the tokens")
        found.append(Written(rationale, text, reading))
    return found


def coverage(distributions: Mapping[str, TopK]) -> Coverage:
    """Count what has a teacher's distribution.

    Raises:
        DataError: If nothing has.
    """
    rationales = without = rows = one_hot = 0
    mass = 0.0
    for found in distributions.values():
        certain = found.num_one_hot
        rationales, rows, one_hot = rationales + 1, rows + len(found.token_ids), one_hot + certain
        without += certain == len(found.token_ids)
        mass += float(found.mass.sum()) - certain
    if rationales and rows == one_hot:
        raise DataError(
            "no token of any rationale has a teacher's probabilities: the endpoint told none, or the teacher's tokens "
            "never cover the same characters as the student's; name a model of the student's family under "
            "teacher.logprobs.model"
        )
    return Coverage(rationales, without, rows, one_hot, mass / max(1, rows - one_hot))


def source_of(
    teacher: TeacherConfig, gathered: Gathered, student: TextLayout, prompt: PromptConfig, precision: str
) -> Source:
    """Where a recipe's distributions come from: the model under `teacher.logprobs`, else the teacher's own answers.

    Args:
        teacher: The recipe's.
        gathered: The rationales, and the answers that they stand in.
        student: Over whose tokens the distributions are.
        prompt: The words around a question.
        precision: Of a model whose own precision the recipe leaves open.

    Raises:
        ConfigError: If the model cannot be loaded.
    """
    if teacher.logprobs is not None:
        return by_model(teacher.logprobs, teacher.logprobs.precision or precision, student, prompt)
    return by_answers(gathered, student, 1 + ((teacher.ask and teacher.ask.logprobs) or 0))


# -- a model in this process -------------------------------------------------------------------------------


def by_model(config: LogprobsConfig, precision: str, student: TextLayout, prompt: PromptConfig) -> Source:
    """A model that reads what the student writes, after the question in its own chat template.

    Args:
        config: Names the model.
        precision: fp32 or bf16.
        student: Over whose tokens the distributions are.
        prompt: The words around a question, which are the student's.

    Raises:
        ConfigError: If the model cannot be loaded.
    """
    try:
        lm = load_model(config.model, "bf16" if precision == "bf16" else "fp32")
    except ConfigError as error:
        raise ConfigError(f"teacher.logprobs.model: {error}") from error
    as_student = translation(lm, student)
    return lambda block: distributions_of(lm, as_student, block, config.top_k, prompt)


def distributions_of(
    lm: LanguageModel, as_student: Translation, block: Sequence[Written], k: int, prompt: PromptConfig
) -> list[TopK]:
    """A model's k most probable tokens at each token of texts, over the student's tokens.

    A token of the student that covers the characters of exactly one token of the teacher, and spells the same, has the
    teacher's distribution; any other has all probability on itself.

    Args:
        lm: The teacher.
        as_student: From the teacher's tokens to the student's.
        block: What the student writes.
        k: How many.
        prompt: The words around a question.

    Raises:
        DataError: If the teacher's log-probabilities are not finite.
    """
    readings = read_texts(lm, [one.rationale.question for one in block], [one.text for one in block], prompt)
    _warn_of_unread([reading for reading in readings if isinstance(reading, str)])
    read = [(number, one) for number, one in enumerate(readings) if isinstance(one, Reading)]
    read.sort(key=lambda numbered: -len(numbered[1].asked) - len(numbered[1].ids))
    found = [TopK.one_hot(one.reading.ids, k) for one in block]
    texts = [(one.asked, one.ids.tolist()) for _, one in read]
    for (number, reading), told in zip(read, expected(lm, texts, k, as_student), strict=True):
        if np.isnan(told.own).any():
            raise DataError(
                f"rationale {block[number].rationale.id!r}: the teacher's probabilities are not finite; set "
                "teacher.logprobs.precision: fp32, or check its weights for NaN"
            )
        rows = _same_tokens(block[number].reading, reading, as_student.student_ids)
        found[number] = _filled(found[number], rows, told.token_ids, told.logprobs)
    return found


def _warn_of_unread(reasons: Sequence[str]) -> None:
    for reason, number in Counter(reasons).items():
        log.warning("%d rationales have none of the teacher's probabilities: %s", number, reason)


def _same_tokens(student: Reading, teacher: Reading, student_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each of the student's tokens the teacher's that is the same at the same place, or -1."""
    as_student = student_ids[teacher.ids]
    if np.array_equal(as_student, student.ids):
        return np.arange(len(student.ids))
    rows = aligned(student.spans, teacher.spans)
    return np.where((rows >= 0) & (as_student[rows] == student.ids), rows, -1)


def _filled(found: TopK, rows: NDArray[np.int64], token_ids: NDArray[np.int32], logprobs: NDArray[np.float16]) -> TopK:
    """Distributions in which the rows that are not -1 are the teacher's, where it expects any token that is known."""
    kept = np.flatnonzero((rows >= 0) & np.isfinite(logprobs[rows, 0]))
    ids, logs = found.token_ids.copy(), found.logprobs.copy()
    ids[kept], logs[kept] = token_ids[rows[kept]], logprobs[rows[kept]]
    return TopK(ids, logs)


# -- what a teacher told of what it wrote --------------------------------------------------------------------


def by_answers(gathered: Gathered, student: TextLayout, k: int) -> Source:
    """The log-probabilities that came with a teacher's own answers.

    They end where the student's text is no longer what the teacher wrote: closing words and answer have none.

    Args:
        gathered: The rationales, and the answers that they stand in.
        student: Over whose tokens the distributions are.
        k: Entries for each token, the written one included.
    """
    attempts = gathered.asked.attempts if gathered.asked else {}
    by_text = ids_by_text(student.tokenizer)

    def told(one: Written) -> TopK:
        place = gathered.places.get(one.rationale.id)
        attempt = attempts.get(place.key) if place else None
        if place is None or attempt is None:
            return TopK.one_hot(one.reading.ids, k)
        return _told(attempt, place.start, one, by_text, k)

    return lambda block: list(map(told, block))


def _told(attempt: Attempt, start: int, one: Written, by_text: Mapping[TokenText, int], k: int) -> TopK:
    found, tokens = TopK.one_hot(one.reading.ids, k), attempt.logprobs or ()
    ids, logs = found.token_ids.copy(), found.logprobs.copy()
    alike = _num_alike(attempt.text[start:], one.text)
    spans = np.array([token.span for token in tokens], dtype=np.int32).reshape(-1, 2) - np.int32(start)
    rows = aligned(one.reading.spans, spans)
    for number in np.flatnonzero((rows >= 0) & (spans[rows, 1] <= alike) if len(spans) else []):
        token, id_ = tokens[rows[number]], int(one.reading.ids[number])
        if by_text.get(_bytes_of(attempt.text[slice(*token.span)])) == id_:
            entries = _entries(token, id_, by_text)[:k]
            ids[number], logs[number] = 0, -np.inf
            ids[number, : len(entries)], logs[number, : len(entries)] = zip(*entries, strict=True)
    return TopK(ids, logs)


def _num_alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their start."""
    pairs = zip(one, other, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _bytes_of(text: str) -> bytes:
    """Its bytes; an endpoint may send half of a surrogate pair, which is no token."""
    return text.encode(errors="surrogatepass")


def _entries(token: TokenLogprob, own: int, by_text: Mapping[TokenText, int]) -> list[tuple[int, float]]:
    """The student's tokens for the written token and its alternatives, the likeliest first."""
    told = ((_bytes_of(name), logprob) for name, logprob in token.top.items())
    known = {by_text[text]: logprob for text, logprob in told if text in by_text}
    known[own] = token.logprob
    ordered = sorted(known.items(), key=lambda entry: -entry[1])
    return [entry for entry in ordered if entry[1] > IMPOSSIBLE] or [(own, 0.0)]
