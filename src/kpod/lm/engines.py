"""What runs a student that answers questions: transformers, or vLLM behind the same calls."""

import gc
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig

from kpod.lm.decoding import Continuation, end_ids, until_end
from kpod.lm.layout import TextLayout, layout_of
from kpod.lm.models import LanguageModel, load_model, model_config, model_folder
from kpod.records.errors import ConfigError

VLLM_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PREFIX = "evaluation.engine is vllm"


@dataclass(frozen=True, kw_only=True)
class VllmModel(TextLayout):
    """A causal student that vLLM runs.

    Attributes:
        llm: A `vllm.LLM`.
        ends: The tokens that end a text.
    """

    llm: Any
    ends: frozenset[int]

    def continue_prompts(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        number: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[Continuation]]:
        """Texts after each prompt, as `kpod.lm.decoding` draws them; vLLM batches the prompts as it sees fit.

        Nothing is taken from the checkpoint's generation settings but its end tokens.

        Args:
            prompts: Token ids; none is empty.
            max_new_tokens: Where a text is broken off.
            number: Texts per prompt; 1 at temperature 0.
            temperature: 0 takes the most probable token each time.
            seed: Decides the draws, whatever else is asked at the time. It is not transformers' seed: the same number
                draws other texts there.

        Returns:
            For each prompt `number` continuations.
        """
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                n=number,
                temperature=temperature,
                seed=(seed + row) * number,  # vLLM counts on from it within a prompt's texts
                max_tokens=max_new_tokens,
                stop_token_ids=sorted(self.ends),
                detokenize=False,
            )
            for row in range(len(prompts))
        ]
        asked = [{"prompt_token_ids": list(ids)} for ids in prompts]
        answered = self.llm.generate(asked, settings, use_tqdm=False)
        return [[self._continuation(text) for text in request.outputs] for request in answered]

    def _continuation(self, text: Any) -> Continuation:
        """The end token is still among the ids; whether one came, `finish_reason` tells."""
        return Continuation(until_end(text.token_ids, self.ends).token_ids, finished=text.finish_reason == "stop")


Engine: TypeAlias = LanguageModel | VllmModel


def load_vllm(name: str, precision: Literal["fp32", "bf16"] = "fp32") -> VllmModel:
    """Let vLLM load a causal student.

    vLLM takes nine tenths of the GPU's memory for itself, so nothing else should lie there: what torch keeps for later
    is given back first, and `kpod evaluate`, a process of its own, is safer than `kpod run`.

    Args:
        name: As for `kpod.lm.models.load_model`.
        precision: Of weights and arithmetic.

    Raises:
        ConfigError: If vLLM is not installed, the student has an encoder or unmerged adapters, or cannot be loaded.
    """
    require_engine("vllm")
    folder = model_folder(name)
    if (Path(folder) / "adapter_config.json").is_file():
        raise ConfigError(
            f"{PREFIX}, which loads whole models, but {name} holds adapters: set training.merge_lora true"
        )
    config = model_config(name)
    if config.is_encoder_decoder:
        raise ConfigError(f"{PREFIX}, which runs causal students, but {name} has an encoder: set it to transformers")
    from vllm import LLM

    try:
        layout = layout_of(AutoTokenizer.from_pretrained(folder), config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"student {name!r} cannot be loaded: {error}") from error
    gc.collect()
    torch.cuda.empty_cache()
    llm = LLM(model=folder, dtype=VLLM_DTYPES[precision], generation_config="vllm")
    return VllmModel(llm=llm, ends=end_ids(layout, generation_settings(folder, config)), **vars(layout))


def require_engine(engine: str) -> None:
    """Tell early what would fail only after training.

    Raises:
        ConfigError: If the engine is vLLM and that is not installed.
    """
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"{PREFIX}, which is not installed: pip install 'kpod-distill[vllm]' where there is a GPU, or set it to "
            "transformers"
        )


def generation_settings(folder: str, config: PreTrainedConfig) -> GenerationConfig:
    """The checkpoint's generation settings, as transformers finds them when it loads the model."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return GenerationConfig.from_model_config(config)


ENGINES: Mapping[str, Callable[[str, Literal["fp32", "bf16"]], Engine]] = {
    "transformers": load_model,
    "vllm": load_vllm,
}
"""`evaluation.engine` -> what loads a student by name or folder, at a precision."""
