"""A trained weight generator: made from a recipe, on disk, and on rationales it never saw.

Weights leave it as spans of characters, so that a student with any tokenizer can use them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from kpod.lm.encoding import encode, project_spans, with_statement
from kpod.lm.layout import TextLayout
from kpod.lm.models import LanguageModel
from kpod.recipe import PromptConfig, WeightingConfig
from kpod.records import Dropped, Rationale, TokenizedRationale, WeightSpan
from kpod.records.errors import DataError
from kpod.records.files import write_text
from kpod.weighting.given import spans_of
from kpod.weighting.learn import learn_weights
from kpod.weighting.module import WeightGenerator, compute_weights
from kpod.weighting.verdict import save_learning

PARAMETERS, FACTS = "weigher.safetensors", "weigher.json"
LONGEST = 1 << 20
"""Tokens: the generator has no positions, so that a rationale fits at any length."""


@dataclass(frozen=True)
class Weigher:
    """A weight generator with the tokenizer whose tokens it knows.

    Attributes:
        generator: Trained.
        layout: The predictor's tokenizer and special ids.
        prompt: The words around a rationale, as in training.
    """

    generator: WeightGenerator
    layout: TextLayout
    prompt: PromptConfig

    def weigh(self, rationales: Sequence[Rationale]) -> list[tuple[WeightSpan, ...] | Dropped]:
        """The weights of each rationale as rising character spans that tile its text, or why it has none."""
        encoded = [encode_whole(self.layout, rationale, self.prompt) for rationale in rationales]
        tokens = [item for item in encoded if isinstance(item, TokenizedRationale)]
        weights = compute_weights(self.generator, tokens) if tokens else {}
        return [item if isinstance(item, Dropped) else spans_of(item, weights[item.id]) for item in encoded]

    def weigh_ids(self, question: Sequence[int], text: Sequence[int]) -> NDArray[np.float32]:
        """The weight of every token of a text that is there in the weigher's own tokens, [text].

        Args:
            question: What was asked, in tokens.
            text: What was written after it; not empty.
        """
        start, stop = len(question), len(question) + len(text)
        ids = np.array([*question, *text], dtype=np.int32)
        spans = np.zeros((len(text), 2), dtype=np.int32)
        tokens = TokenizedRationale("text", ids, (start, stop, stop, stop, stop), (len(text),), spans)
        return compute_weights(self.generator, [tokens])["text"]

    def save(self, folder: Path) -> None:
        """Write parameters, facts and tokenizer into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous().cpu() for name, tensor in self.generator.state_dict().items()}
        save_file(state | {"table": state["table"].bfloat16()}, folder / PARAMETERS)
        self.layout.tokenizer.save_pretrained(folder)
        facts = {name: value for name, value in vars(self.layout).items() if name.endswith("_id")}
        facts |= {"alpha": self.generator.alpha, "held": self.generator.held, "prompt": asdict(self.prompt)}
        write_text(folder / FACTS, json.dumps(facts, indent=2))

    @classmethod
    def load(cls, folder: Path) -> "Weigher":
        """What `save` wrote.

        Raises:
            DataError: If the folder holds no weigher, or one of an older version.
        """
        if not (folder / FACTS).is_file():
            raise DataError(f"{folder} holds no weigher; kpod weigh writes one where it learns weights")
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if "held" not in facts:
            raise DataError(f"{folder} was written by an older version, which weighed in another way; weigh again")
        prompt, state = PromptConfig(**facts.pop("prompt")), load_file(folder / PARAMETERS)
        generator = WeightGenerator(state["table"], facts.pop("alpha"), held=facts.pop("held"))
        generator.load_state_dict(state)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(generator.to(device).eval(), TextLayout(tokenizer=tokenizer, **facts), prompt)


def encode_whole(layout: TextLayout, rationale: Rationale, prompt: PromptConfig) -> TokenizedRationale | Dropped:
    """A rationale as one step in the tokens of a predictor, or why it cannot be."""
    return encode(layout, rationale, [(0, len(rationale.text))], prompt, LONGEST)


def weigh_rationales(
    lm: LanguageModel,
    rationales: Sequence[Rationale],
    tokens: Sequence[TokenizedRationale],
    config: WeightingConfig,
    prompt: PromptConfig,
    seed: int,
    folder: Path,
) -> dict[str, NDArray[np.float32]]:
    """Learn weights with any predictor and give them in the student's tokens; the folder gets what was learnt.

    Args:
        lm: The predictor; changed in place.
        rationales: Their texts, for a predictor with its own tokenizer.
        tokens: The same rationales in the student's tokens.
        config: The recipe's `weighting`.
        prompt: The words around a rationale.
        seed: As for `learn_weights`.
        folder: Gets `weigher/`, which `Weigher.load` reads, and `learning.json`.

    Returns:
        Rationale id -> one weight per token of `tokens`.

    Raises:
        DataError: If a rationale cannot be put into the predictor's tokens.
        WeightingError: As `learn_weights`. Weights that its verdict refuses are returned; `accepted` raises once
            they are saved.
    """
    own = _in_tokens_of(lm if config.predictor else None, rationales, tokens, prompt)
    learnt = learn_weights(lm, own, config, seed)
    Weigher(learnt.generator, lm, prompt).save(folder / "weigher")
    facts = {
        "warmup_nll": learnt.warmup_nll,
        "fit": learnt.facts,
        "rounds": [asdict(one) for one in learnt.rounds],
        "objective": learnt.objective,
        "prefixes": asdict(learnt.proof),
    }
    save_learning(folder, facts, learnt.verdict)
    if config.predictor is None:
        return learnt.weights
    spans = {read.id: spans_of(read, learnt.weights[read.id]) for read in own}
    return {student.id: project_spans(spans[student.id], student.char_spans) for student in tokens}


def _in_tokens_of(
    lm: LanguageModel | None,
    rationales: Sequence[Rationale],
    wanted: Sequence[TokenizedRationale],
    prompt: PromptConfig,
) -> list[TokenizedRationale]:
    """The rationales that are wanted in a predictor's tokens, or in those that they are in, with their statements."""
    texts = {rationale.id: rationale for rationale in rationales}
    found = []
    for tokens in wanted:
        text = texts[tokens.id]
        own = encode_whole(lm, text, prompt) if lm else with_statement(text, tokens)
        if isinstance(own, Dropped):
            raise DataError(f"rationale {own.id!r} does not suit weighting.predictor: {own.reason}; leave it out")
        found.append(own)
    return found
