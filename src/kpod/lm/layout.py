"""How texts become id sequences for a model: its tokenizer, its special ids, and what it can hold."""

from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from kpod.records.errors import ConfigError

CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_seq_len",  # MPT's biases end there
    "max_encoder_position_embeddings",  # LED has a limit for each of its sides
    "max_decoder_position_embeddings",
)


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """A tokenizer, and how a model's sequences are laid out.

    Attributes:
        tokenizer: A fast tokenizer (offsets are needed).
        pad_id: Fills batches; always masked, never a label.
        end_id: Ends every target, labelled by position.
        decoder_start_id: First decoder input of an encoder-decoder model; None for a causal one.
        context: Longest sequence in tokens; None where nothing sets a limit, as with T5's relative positions.
        vocabulary: How many tokens the model has embeddings for; None where its config does not say.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_id: int
    end_id: int
    decoder_start_id: int | None
    context: int | None = None
    vocabulary: int | None = None

    @property
    def encoder_decoder(self) -> bool:
        """Whether the question goes to an encoder."""
        return self.decoder_start_id is not None


def layout_of(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> TextLayout:
    """Read the layout off a tokenizer and its model's config.

    Raises:
        ConfigError: If the tokenizer has no offsets or no end token, or an encoder-decoder model no start token.
    """
    name = tokenizer.name_or_path
    if not tokenizer.is_fast:
        raise ConfigError(
            f"tokenizer {name!r} is slow: it gives no offsets, which steps need; save its fast version beside the "
            "model, with a tokenizer.json, or choose another student"
        )
    offsets = tokenizer("6 times 7", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if not any(stop > start for start, stop in offsets):
        raise ConfigError(
            f"tokenizer {name!r} gives no offsets, which steps need; choose another student, or save its "
            "tokenizer again with the newest transformers"
        )
    end_id = tokenizer.eos_token_id
    if end_id is None:
        raise ConfigError(
            f"tokenizer {name!r} has no eos_token; the student could never stop: set eos_token in its "
            "tokenizer_config.json"
        )
    text_config = config.get_text_config()
    vocabulary = getattr(text_config, "vocab_size", None)
    if vocabulary is not None and end_id >= vocabulary:
        raise ConfigError(
            f"tokenizer {name!r} ends texts with token {end_id}, but the model has {vocabulary} embeddings: it is "
            "another model's tokenizer, or the embeddings need resizing (resize_token_embeddings)"
        )
    pad_id = tokenizer.pad_token_id
    limits = [getattr(text_config, key, None) for key in CONTEXT_KEYS]
    return TextLayout(
        tokenizer=tokenizer,
        pad_id=end_id if pad_id is None or (vocabulary is not None and pad_id >= vocabulary) else pad_id,
        end_id=end_id,
        decoder_start_id=_decoder_start_id(config) if config.is_encoder_decoder else None,
        context=min((limit for limit in limits if isinstance(limit, int)), default=None),
        vocabulary=vocabulary,
    )


def _decoder_start_id(config: PreTrainedConfig) -> int:
    """What a decoder reads first, by the rule of the model's own code: T5Gemma's decoder starts with its BOS token.

    Raises:
        ConfigError: If the config does not say it.
    """
    decoder = getattr(config, "decoder", None)
    for start_id in (getattr(config, "decoder_start_token_id", None), getattr(decoder, "bos_token_id", None)):
        if start_id is not None:
            return int(start_id)
    raise ConfigError(
        f"model {config.name_or_path!r} has no decoder_start_token_id in its config.json; set it to the token that its "
        "decoder reads first"
    )
