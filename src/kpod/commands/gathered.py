"""What pages of one run and of two show of each run: its rationales with weights, its answers, its training."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, isfinite
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from kpod.commands.pages.browser import Answered, HeatMap, Paired, first_stages
from kpod.commands.pages.page import Epoch
from kpod.commands.pages.tables import weighed_tokens
from kpod.records.errors import DataError
from kpod.records.outcomes import Accuracy, Prediction

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline


def heat_maps(pipeline: "Pipeline") -> dict[str, HeatMap]:
    """Every rationale that is trained on, by its id, with weights, difficulties and the stages of its steps."""
    rationales = {rationale.id: rationale for rationale in pipeline.sources[0]}
    schedule, weights = pipeline.schedule, pipeline.weights.loss
    columns = {id_: column for column, id_ in enumerate(schedule.ids)} if schedule.input_steps.any() else {}
    key = pipeline.keys.get("difficulties", "")
    difficulties = pipeline.difficulties if key and pipeline.folder.has("difficulties", key) else {}
    found = {}
    for one in pipeline.tokens:
        if one.num_tokens and one.id in rationales:
            hard = difficulties[one.id] if one.id in difficulties else np.empty(0)
            found[one.id] = HeatMap(
                one.id,
                rationales[one.id].question.question,
                weighed_tokens(rationales[one.id], one, weights[one.id]),
                rationales[one.id].question.answer,
                tuple(map(float, hard)) if len(hard) == one.num_steps else (),
                first_stages(schedule, columns[one.id], one.num_steps) if one.id in columns else (),
            )
    return found


def predictions_after(pipeline: "Pipeline") -> dict[str, list[Prediction]]:
    """Test set -> what the trained student answered."""
    return {test: pipeline.own_evaluation("after", test)[0] for test in pipeline.recipe.data.tests}


def evaluated_before(pipeline: "Pipeline", test: str) -> tuple[list[Prediction], Accuracy] | None:
    """What the untrained student answered and its accuracy, where it was asked."""
    if not pipeline.recipe.evaluation.before:
        return None
    try:
        return pipeline.own_evaluation("before", test)
    except DataError:  # the recipe asked for it only after the run
        return None


def question_texts(pipeline: "Pipeline") -> dict[str, dict[str, str]]:
    """Test set -> question id -> the question."""
    tests = pipeline.recipe.data.tests
    return {test: {one.id: one.question for one in pipeline.data.questions(test)} for test in tests}


def answered(
    texts: Mapping[str, Mapping[str, str]], sides: Sequence[Mapping[str, Sequence[Prediction] | None]]
) -> Iterator[Answered]:
    """Every question that a side was asked, test set by test set.

    Args:
        texts: Test set -> question id -> the question.
        sides: Test set -> predictions, or None where the side was not asked.
    """
    for test in dict.fromkeys(test for side in sides for test in side):
        by_id = [{one.id: one for one in side.get(test) or ()} for side in sides]
        for id_ in dict.fromkeys(id_ for side in by_id for id_ in side):
            yield Answered(test, id_, texts[test].get(id_, ""), tuple(side.get(id_) for side in by_id))


def paired(answers: Sequence[Answered]) -> Iterator[Paired]:
    """Of each test set what two sides answered correctly, on the questions that both were asked."""
    from kpod.evaluation.pairing import paired_difference  # scipy.stats takes a second

    by_test: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for one in answers:
        match one.predictions:
            case (Prediction() as first, Prediction() as second):
                by_test[one.test].append((first.correct, second.correct))
    for test, right in by_test.items():
        first, second = np.array(right).T
        yield Paired(
            test=test,
            both=int((first & second).sum()),
            gained=int((~first & second).sum()),
            lost=int((first & ~second).sum()),
            neither=int((~first & ~second).sum()),
            difference=paired_difference(second[None], first[None]),
        )


def epochs(pipeline: "Pipeline") -> Iterator[Epoch]:
    """The updates and validations of each epoch together."""
    from kpod.training.metrics import METRICS, VALIDATION, read_metrics

    curricula = [pipeline.by(part) for part in pipeline.method.parts("curriculum")]
    by_epoch: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for line in read_metrics(pipeline.folder.path / "student" / METRICS):
        by_epoch[max(1, ceil(line["epoch"] - 1e-6))].append(line)
    for number, some in by_epoch.items():
        updates = [line for line in some if "loss" in line]
        if not updates:
            continue
        stages = [line["stage"] or 0 for line in updates]
        least, most = min(stages), max(stages)
        words = [curriculum.describe(stage) for curriculum in curricula for stage in (least, most)]
        losses = [line["loss"] for line in updates if isfinite(line["loss"])]
        yield Epoch(
            number=number,
            stages=(least, most),
            words=" to ".join(dict.fromkeys(words)),
            updates=len(updates),
            trained_tokens=sum(line["trained_tokens"] for line in updates),
            loss=fmean(losses) if losses else None,
            accuracy=next((line[VALIDATION] for line in reversed(some) if VALIDATION in line), None),
        )


def coverage(pipeline: "Pipeline") -> dict[str, int | float]:
    """How much of what the student writes has a teacher's distribution, where the method asks for one."""
    from kpod.experiment.artifacts import SUMMARY

    summary = pipeline.folder.path / "teacher_logprobs" / SUMMARY
    if "teacher_logprobs" not in pipeline.keys or not summary.is_file():
        return {}
    found: dict[str, int | float] = json.loads(summary.read_text(encoding="utf-8"))
    return found
