"""Every record to disk and back.

runs/
.phases/                  what is made, shared by the runs; see kpod.experiment.run_folder
<name>/
recipe.yaml             as resolved
rationales.jsonl        what passed the filter
dropped.jsonl           every rationale that is not trained on, with its reason
tokens views teacher_logprobs weights clusters difficulties plan reference student evaluation/<when>/<set>
links to the phases that the method needs
report.html, report.json
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpod.records import (
    Dropped,
    Question,
    Rationale,
    Schedule,
    StageRecord,
    TokenizedRationale,
)
from kpod.records.columns import ById, Tokens, write_tokens
from kpod.records.errors import DataError
from kpod.records.files import flush_to_disk, whole_lines, write_lines, write_text
from kpod.records.outcomes import Accuracy, Prediction, Surprise
from kpod.records.topk import TopKById

DROPPED = "dropped.jsonl"
TOKENS, WEIGHTS, DIFFICULTIES = "tokens.arrow", "weights.arrow", "difficulties.arrow"
REFERENCE = "reference.arrow"
TEACHER_LOGPROBS = "teacher_logprobs.arrow"
CLUSTERS, SCHEDULE, STAGES = "clusters.npy", "schedule.npy", "stages.json"
PREDICTIONS, SUMMARY = "predictions.jsonl", "summary.json"
SURPRISES = "nll.jsonl"


def key_of(*parts: Any) -> str:
    """A short hash of anything JSON can hold; equal parts, equal key."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line; a record ends at a newline only."""
    write_lines(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that `write_jsonl` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def rationale_row(rationale: Rationale) -> dict[str, Any]:
    """A rationale as a row of a rationale file, readable by `kpod.data.reader`."""
    row = asdict(rationale.question) | {"id": rationale.id, "question_id": rationale.question.id}
    row |= {"rationale": rationale.text, "source": rationale.source, "teacher_answer": rationale.teacher_answer}
    if rationale.token_weights is not None:
        row["token_weights"] = rationale.token_weights
    return {name: value for name, value in row.items() if value is not None or name == "teacher_answer"}


def question_row(question: Question) -> dict[str, Any]:
    """A question as a row of a question file."""
    return {name: value for name, value in asdict(question).items() if value is not None}


def save_dropped(path: Path, dropped: Sequence[Dropped]) -> None:
    """What is not trained on, and why."""
    write_jsonl(path, map(asdict, dropped))


def save_tokens(folder: Path, encoded: Iterable[TokenizedRationale | Dropped]) -> None:
    """Tokenised rationales as they come, and those that could not be tokenised."""
    dropped: list[Dropped] = []

    def tokens() -> Iterator[TokenizedRationale]:
        for item in encoded:
            if isinstance(item, Dropped):
                dropped.append(item)
            else:
                yield item

    write_tokens(folder / TOKENS, tokens())
    save_dropped(folder / DROPPED, dropped)


def load_tokens(folder: Path) -> tuple[Tokens, list[Dropped]]:
    """What `save_tokens` saved; the tokens stay on the disk."""
    return Tokens(folder / TOKENS), [Dropped(**row) for row in read_jsonl(folder / DROPPED)]


def load_difficulties(folder: Path) -> ById:
    """The step difficulties that a folder holds."""
    return ById(folder / DIFFICULTIES)


def load_reference(folder: Path) -> ById:
    """Log P under the reference model of every token after the question that a folder holds."""
    return ById(folder / REFERENCE)


def load_teacher_logprobs(folder: Path) -> TopKById:
    """The teacher's distributions that a folder holds."""
    return TopKById(folder / TEACHER_LOGPROBS)


def save_clusters(folder: Path, clusters: NDArray[np.int64]) -> None:
    """The questions' clusters, one number per tokenised rationale."""
    np.save(folder / CLUSTERS, clusters, allow_pickle=False)


def load_clusters(folder: Path) -> NDArray[np.int64]:
    """What `save_clusters` saved."""
    found: NDArray[np.int64] = np.load(folder / CLUSTERS, allow_pickle=False)
    return found


def save_plan(folder: Path, schedule: Schedule) -> None:
    """The schedule."""
    np.save(folder / SCHEDULE, schedule.input_steps, allow_pickle=False)
    facts = {
        "ids": schedule.ids,
        "stages": [asdict(record) for record in schedule.stages],
        "diversity_weight": schedule.diversity_weight,
        "relative_diversity": schedule.relative_diversity,
        "first_stage": schedule.first_stage,
        "ramp_epochs": schedule.ramp_epochs,
        "trains": schedule.trains,
        "ordered": schedule.ordered,
    }
    write_text(folder / STAGES, json.dumps(facts, ensure_ascii=False))


def load_schedule(folder: Path) -> Schedule:
    """The schedule that `save_plan` saved."""
    facts = json.loads((folder / STAGES).read_text(encoding="utf-8"))
    return Schedule(
        ids=tuple(facts["ids"]),
        input_steps=np.load(folder / SCHEDULE, mmap_mode="r", allow_pickle=False),
        stages=tuple(StageRecord(**record) for record in facts["stages"]),
        diversity_weight=facts["diversity_weight"],
        relative_diversity=facts["relative_diversity"],
        first_stage=facts["first_stage"],
        ramp_epochs=facts["ramp_epochs"],
        trains=facts["trains"],
        ordered=facts["ordered"],
    )


def evaluation_phase(when: str, test: str) -> str:
    """The folder of a test set's evaluation; a name that is no folder's is made safe and kept apart by a hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", test).strip(".-")
    name = safe if safe == test else f"{safe[-40:]}-{key_of(test)[:6]}"
    return f"evaluation/{when}/{name}"


def save_evaluation(folder: Path, predictions: Sequence[Prediction], accuracy: Accuracy) -> None:
    """Predictions of one test set, and their accuracy."""
    write_jsonl(folder / PREDICTIONS, [asdict(p) for p in predictions])
    write_text(folder / SUMMARY, json.dumps(asdict(accuracy) | {"accuracy": accuracy.value}, indent=2))


def save_surprises(folder: Path, measured: Iterable[Surprise]) -> None:
    """How surprised a model is by held-out rationales."""
    write_jsonl(folder / SURPRISES, [{"id": one.id, "parts": dict(one.parts)} for one in measured])


def load_surprises(folder: Path) -> list[Surprise]:
    """What `save_surprises` saved."""
    if not (folder / SURPRISES).is_file():
        raise DataError(f"{folder} holds no NLL of held-out rationales; run kpod evaluate first")
    rows = read_jsonl(folder / SURPRISES)
    return [Surprise(row["id"], {name: (num, nats) for name, (num, nats) in row["parts"].items()}) for row in rows]


@dataclass(frozen=True)
class PartialEvaluation:
    """Predictions of an evaluation that is not finished yet, each batch written through to the disk.

    Attributes:
        path: Holds them; the predictions of further processes stand beside it.
        process: The number of this process among those that share the work.
    """

    path: Path
    process: int = 0

    @property
    def own(self) -> Path:
        """What this process writes to."""
        return self.path.with_suffix(f".{self.process}{self.path.suffix}") if self.process else self.path

    def read(self) -> dict[str, Prediction]:
        """What all processes have kept, by question id; a torn last line, left by a kill, is cut off and not counted.

        Only for one process at a time, while none appends.
        """
        found: dict[str, Prediction] = {}
        for path in self._all():
            rows = [json.loads(line) for line in whole_lines(path)]
            write_jsonl(path, rows)
            found |= {row["id"]: _prediction(row) for row in rows}
        return found

    def remove(self) -> None:
        """Delete what all processes have kept."""
        for path in self._all():
            path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}*{self.path.suffix}"))

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Add a batch."""
        self.own.parent.mkdir(parents=True, exist_ok=True)
        with self.own.open("a", encoding="utf-8", newline="") as file:
            file.writelines(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in predictions)
        flush_to_disk(self.own)


def load_evaluation(folder: Path) -> tuple[list[Prediction], Accuracy]:
    """What `save_evaluation` saved."""
    if not (folder / SUMMARY).is_file():
        raise DataError(f"{folder} holds no evaluation; run kpod evaluate first")
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    del summary["accuracy"]
    for pair in ("interval", "by_last_number"):
        summary[pair] = tuple(summary[pair]) if summary.get(pair) else None
    return [_prediction(row) for row in read_jsonl(folder / PREDICTIONS)], Accuracy(**summary)


def _prediction(row: Mapping[str, Any]) -> Prediction:
    drawn = row.get("drawn")
    return Prediction(**{**row, "drawn": None if drawn is None else tuple(map(tuple, drawn))})
