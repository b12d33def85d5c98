"""How texts become id sequences for a model: its tokenizer, its special ids, and what it can hold."""

from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from kpod.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """A tokenizer, and how a model's sequences are laid out.

    Attributes:
        tokenizer: A fast tokenizer (offsets are needed).
        pad_id: Fills batches; always masked, never a label.
        end_id: Ends every target, labelled by position.
        decoder_start_id: First decoder input of an encoder-decoder model; None for a causal one.
        context: Longest sequence in tokens; None where nothing sets a limit, as with T5's relative positions.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_id: int
    end_id: int
    decoder_start_id: int | None
    context: int | None = None

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
        raise ConfigError(f"tokenizer {name!r} is slow: it gives no offsets; install its fast version")
    end_id = tokenizer.eos_token_id
    if end_id is None:
        raise ConfigError(f"tokenizer {name!r} has no eos_token; the student could never stop")
    start_id = getattr(config, "decoder_start_token_id", None) if config.is_encoder_decoder else None
    if config.is_encoder_decoder and start_id is None:
        raise ConfigError(f"model {config.name_or_path!r} has no decoder_start_token_id in its config")
    return TextLayout(
        tokenizer=tokenizer,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_id,
        end_id=end_id,
        decoder_start_id=start_id,
        context=getattr(config.get_text_config(), "max_position_embeddings", None),
    )
