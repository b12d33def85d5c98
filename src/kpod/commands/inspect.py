"""`kpod inspect`: one example at one stage, token by token, as the student sees it. The audit before the training."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kpod.commands.recipe_argument import add_recipe, recipe_of
from kpod.commands.terminal import say
from kpod.records import SEGMENTS, TokenizedRationale
from kpod.records.errors import DataError
from kpod.records.shown import visible

if TYPE_CHECKING:
    from kpod.experiment.pipeline import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the verb."""
    add_recipe(parser)
    parser.add_argument("--id", required=True, help="the rationale's id")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stage", type=int, help="a stage of the schedule")
    which.add_argument("--given", type=int, help="a number of given steps")


def work(options: argparse.Namespace) -> None:
    """Print one example."""
    recipe = recipe_of(options)
    from kpod.experiment.pipeline import Pipeline  # takes seconds; a wrong recipe is told at once

    heading, rows = inspect_example(Pipeline(recipe), options.id, options.stage, options.given)
    say(heading)
    say(table(rows))


class InspectedToken(NamedTuple):
    """One token as the student sees it.

    Attributes:
        position: In the sequence of `reader`.
        reader: `encoder` or `decoder`; a causal student is all decoder.
        token: Its text, with everything invisible written out.
        segment: One of SEGMENTS.
        step: Counted from 1; None outside the rationale.
        use: `given` (only read) or `trained`.
        label: The text that the output before this token is trained to predict; None where it is only read.
        weight: The label's weight in the loss; None where it is only read.
    """

    position: int
    reader: str
    token: str
    segment: str
    step: int | None
    use: str
    label: str | None
    weight: float | None


def inspect_example(
    pipeline: "Pipeline", rationale_id: str, stage: int | None, given: int | None
) -> tuple[str, list[InspectedToken]]:
    """One rationale at a stage of the run's schedule, or with a number of given steps.

    Args:
        pipeline: The run; its weights and schedule are used where they are made and current, else every weight is 1.
        rationale_id: Which rationale.
        stage: t; needs the schedule.
        given: Number of given steps, instead of a stage; 0 where neither is set.

    Returns:
        A heading that says what is shown, and the tokens.

    Raises:
        DataError: If there is no such rationale (a dropped one is named with its reason), stage or number of steps.
    """
    tokens = _find(pipeline, rationale_id)
    weights, origin = _weights(pipeline, tokens)
    steps = _input_steps(pipeline, tokens, stage) if given is None else given
    heading = f"{rationale_id}: {steps} of {tokens.num_steps} steps given; weights: {origin}"
    return heading, list(_inspected(pipeline, tokens, weights, steps))


def table(rows: list[InspectedToken]) -> str:
    """The tokens as a text table."""
    cells = [("pos", "read by", "token", "part", "step", "use", "label", "weight")]
    for row in rows:
        step = "" if row.step is None else str(row.step)
        weight = "" if row.weight is None else f"{row.weight:.3f}"
        label = "-" if row.label is None else row.label
        cells.append((str(row.position), row.reader, row.token, row.segment, step, row.use, label, weight))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _find(pipeline: "Pipeline", rationale_id: str) -> TokenizedRationale:
    for tokens in pipeline.tokens:
        if tokens.id == rationale_id:
            return tokens
    for dropped in pipeline.dropped:
        if dropped.id == rationale_id:
            raise DataError(f"rationale {rationale_id!r} is not trained on: {dropped.reason}")
    raise DataError(f"no rationale has the id {rationale_id!r}; the first is {pipeline.tokens[0].id!r}")


def _weights(pipeline: "Pipeline", tokens: TokenizedRationale) -> tuple[NDArray[np.float32], str]:
    from kpod.training.batches import normalised

    if not pipeline.method.learns or pipeline.folder.has("weights", pipeline.keys["weights"]):
        how = pipeline.method.training(pipeline.recipe.training).weight_normalisation
        return normalised(pipeline.weights.loss[tokens.id], tokens.id, how), f"of the method {pipeline.recipe.method}"
    return np.ones(tokens.num_tokens, dtype=np.float32), "not learnt yet, shown as 1"


def _input_steps(pipeline: "Pipeline", tokens: TokenizedRationale, stage: int | None) -> int:
    if stage is None:
        return 0
    if not pipeline.folder.has("plan", pipeline.keys["plan"]):
        raise DataError("there is no schedule yet; run kpod plan first, or name a number of steps with --given")
    schedule = pipeline.schedule
    if schedule.trains != "suffix":
        raise DataError(f"method {pipeline.recipe.method} trains the start of a rationale; only suffixes can be shown")
    if not 0 <= stage <= schedule.ramp_stages:
        raise DataError(f"stage {stage} is not in the schedule; its stages are 0 to {schedule.ramp_stages}")
    return int(schedule.input_steps[stage, schedule.ids.index(tokens.id)])


def _inspected(
    pipeline: "Pipeline", tokens: TokenizedRationale, weights: NDArray[np.float32], input_steps: int
) -> Iterator[InspectedToken]:
    """Read labels and weights off the very batch that training would get."""
    from kpod.lm.sequences import IGNORED, collate, example_at

    lm, where = pipeline.student, pipeline.recipe.training.given
    example = example_at(tokens, weights, input_steps, encoder_decoder=lm.encoder_decoder, given=where)
    batch = collate([example], lm)
    labels, label_weights = batch["labels"][0].tolist(), batch["weights"][0].tolist()
    rationale, question = tokens.segment("rationale"), tokens.segment_stops[0]
    steps = np.searchsorted(tokens.step_stops, np.arange(tokens.num_tokens), side="right") + 1
    segments = np.repeat(SEGMENTS, np.diff((0, *tokens.segment_stops)))
    num_encoded = len(example.encoder_ids)
    shift = 0 if lm.encoder_decoder else 1  # a causal model's first token is predicted by nothing
    num_given = tokens.num_input_tokens(input_steps) if num_encoded and where == "encoder" else 0
    order = [*range(question - 1), *range(question, question + num_given), question - 1] if num_encoded else []
    order += range(question + num_given if num_encoded else 0, len(tokens.token_ids))
    for place, index in enumerate(order):
        encoded = place < num_encoded
        position = place if encoded else place - num_encoded
        column = position - shift
        label = IGNORED if encoded or column < 0 else labels[column]
        yield InspectedToken(
            position=position,
            reader="encoder" if encoded else "decoder",
            token=_shown(str(lm.tokenizer.decode([int(tokens.token_ids[index])]))),
            segment=str(segments[index]),
            step=int(steps[index - question]) if rationale.start <= index < rationale.stop else None,
            use="given" if label == IGNORED else "trained",
            label=None if label == IGNORED else _shown(str(lm.tokenizer.decode([label]))),
            weight=None if label == IGNORED else label_weights[column],
        )


def _shown(text: str) -> str:
    return visible(text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣"))
