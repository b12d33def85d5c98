"""The model card of a student, as the Hugging Face Hub reads it: metadata in YAML, and a page in Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from kpod.commands.pages.tables import BeforeAfter, percent_range
from kpod.data.hub import DATASETS
from kpod.records.outcomes import Accuracy
from kpod.records.shown import percent, visible

TASK = "text-generation"
_FOLDER = re.compile(r"(?:[/\\~]|\.\.?[/\\]|[A-Za-z]:[/\\])(?:.*[/\\])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model card says.

    Attributes:
        repo: Where the student stands on the Hub, as `owner/name`.
        method: The row of METHODS.
        label: Its name in the paper's tables.
        base_model: The Hub's name of the student before training; None where it is not known.
        license: `license`, `license_name` and `license_link` of the base model, as far as they are known.
        adapters: Whether the weights are adapters on the base model, not a whole model.
        train: The training data, as the recipe names them.
        accuracies: Each test set before, where measured, and after training.
        beside: What the weights that are not uploaded came to, where the student is a mean; in the text alone.
        decoding: How the tests' answers were written.
        quick_start: Python code that asks the student.
        has_choices: Whether the questions have options.
        weights: How the significance weights were found, a full sentence each.
        rationales: How many there are and who wrote them.
        recipe_yaml: The recipe as resolved.
        versions: Versions, seed and hashes: name -> value.
        training: The sections that the training wrote, in Markdown: its settings, outcome and citation.
    """

    repo: str
    method: str
    label: str
    base_model: str | None = None
    license: Mapping[str, str] = field(default_factory=dict)
    adapters: bool = False
    train: str
    accuracies: Sequence[BeforeAfter] = ()
    beside: Sequence[BeforeAfter] = ()
    decoding: str = "greedily"
    quick_start: str
    has_choices: bool = False
    weights: Sequence[str]
    rationales: str
    recipe_yaml: str
    versions: Mapping[str, str]
    training: str

    @property
    def metadata(self) -> ModelCardData:
        """What the Hub filters, links and ranks by."""
        more: dict[str, Any] = dict(self.license)
        if self.base_model:
            more["base_model_relation"] = "adapter" if self.adapters else "finetune"
        results = [_result(after, before, self.decoding) for before, after in self.accuracies]
        return ModelCardData(
            base_model=self.base_model,
            datasets=[hub] if (hub := _on_hub(self.train)) else None,
            eval_results=results or None,
            model_name=self.repo.rpartition("/")[2] if results else None,
            library_name="peft" if self.adapters else "transformers",
            pipeline_tag=TASK,
            tags=["kpod", "distillation", "chain-of-thought"],
            **more,
        )

    def __str__(self) -> str:
        """The whole file."""
        base = self.base_model
        start = f"[{base}](https://huggingface.co/{base})" if base else "a local model"
        packages = "transformers torch peft" if self.adapters else "transformers torch"
        name, weighed = self.repo.rpartition("/")[2], "\n".join(self.weights)
        return f"""---
{self.metadata.to_yaml()}
---

# {name}

A student of {start}. It answers questions with a chain of thought. It was trained on a
teacher's rationales with the method `{self.method}` ({self.label}) of the package `kpod-distill`
([arXiv:2405.16064](https://arxiv.org/abs/2405.16064)).

## Quick start

    pip install {packages}

```python
{self.quick_start.strip()}
```

{self._about_the_prompt}

## Accuracy

{self._accuracy}

## Method

{self.rationales}

{weighed}

The whole recipe, with all defaults:

```yaml
{self.recipe_yaml.strip()}
```

## Versions, seed and hashes

| name | value |
|---|---|
{_rows(self.versions)}

## Limits

- The student was trained and tested on questions like those above. Nothing is known about other questions.
- A chain of thought can be wrong where the answer is right, and the reverse. Check what depends on it.
- The rationales come from a teacher. Its errors and its terms of use carry over.
- The student was not tested for safety or bias.

## Training
{self.training.rstrip()}
"""

    @property
    def _about_the_prompt(self) -> str:
        told = (
            "The student was trained and evaluated with exactly this prompt. Another prompt, also another chat\n"
            "template, may lower its accuracy."
        )
        return f"{told} The options of a question follow it as in the example." if self.has_choices else told

    @property
    def _accuracy(self) -> str:
        if not self.accuracies:
            return "Not measured."
        rows = [
            f"| {_in_table(after.dataset)} | {_cell(before)} | {_cell(after)} |"
            for before, after in (*self.accuracies, *self.beside)
        ]
        return "\n".join(
            (
                "Share of questions with the right answer; in brackets its 95 % interval (Wilson), and how many",
                f"were asked. Answers were written {self.decoding}.",
                "",
                "| test set | before training | after training |",
                "|---|---|---|",
                *rows,
            )
        )


def shown_name(source: str) -> str:
    r"""A data set's name for strangers: of a file in a folder its own name alone.

    Example:
        >>> shown_name("/home/me/own.jsonl"), shown_name("gsm8k:test"), shown_name("../client/own.csv")
        ('own.jsonl', 'gsm8k:test', 'own.csv')
    """
    return _FOLDER.sub("", source, count=1) if _FOLDER.match(source) else source


def _on_hub(source: str) -> str | None:
    """The Hub's name of a data set; None where it is not known to be there."""
    if source.startswith("hub:"):
        return source.split(":")[1]
    spec = DATASETS.get(source.partition(":")[0])
    return spec.hub if spec else None


def _result(after: Accuracy, before: Accuracy | None, decoding: str) -> EvalResult:
    base, _, split = after.dataset.partition(":")
    spec = DATASETS.get(base)
    part = spec.splits.get(split or "test") if spec else None
    measured = {
        "interval_95": [round(bound, 4) for bound in after.interval],
        "num_questions": after.num_questions,
        "num_correct": after.num_correct,
    }
    if before is not None:
        measured["before_training"] = round(before.value, 4)
    return EvalResult(
        task_type=TASK,
        dataset_type=_on_hub(after.dataset) or shown_name(after.dataset),
        dataset_name=shown_name(after.dataset),
        dataset_config=spec.config if spec else None,
        dataset_split=part.split if part else None,
        metric_type="accuracy",
        metric_name=f"accuracy of a zero-shot chain of thought, written {decoding}",
        metric_value=round(after.value, 4),
        metric_args=measured,
    )


def _cell(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "not measured"
    return f"{percent(accuracy.value)} ({percent_range(accuracy.interval)}; {accuracy.num_questions})"


def _rows(values: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {_in_table(value)} |" for name, value in values.items())


def _in_table(name: str) -> str:
    return visible(" ".join(shown_name(name).split())).replace("|", "\\|")
