"""The base model, its tokenizer, and how frozen weights are stored."""

from typing import Literal

from launcher.schema.values import FrozenMapping, Text
from launcher.section import Section


class Model(Section):
    """The base model: a hub name, a folder, or a configuration to start from scratch."""

    name_or_path: Text | None = None
    """Hub name or folder of a pretrained model; either this or `init`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    init: Text | FrozenMapping | None = None
    """Start with random weights: path to a config.json, or a mapping with model_type and its fields."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        None
    )
    """Attention backend; null takes sdpa, or eager where the model has no sdpa."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type in which the weights are loaded; auto follows training.precision and the method."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


class Tokenizer(Section):
    """The tokenizer, when it is not simply the model's own."""

    name_or_path: Text | None = None
    """Hub name or folder; null takes the model's."""
    chat_template: str | None = None
    """Path to a .jinja file, or the template itself; null takes the tokenizer's."""
    add_tokens: tuple[str, ...] = ()
    """Tokens to add to the vocabulary; the embeddings grow with it."""
    pad_token: str | None = None
    """Token to pad with; null takes the tokenizer's."""


class Quantization(Section):
    """How the frozen base weights are stored under method: qlora."""

    bits: Literal[4, 8] = 4
    """Bits per weight."""
    quant_type: Literal["nf4", "fp4", "int8"] | None = None
    """Format of a weight: nf4 or fp4 in 4 bits, int8 in 8; null: nf4 or int8."""
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type in which 4-bit layers compute; auto follows training.precision."""
    double_quant: bool | None = None
    """Quantize the scales of 4-bit weights as well; null: yes."""
    skip_modules: tuple[str, ...] = ()
    """Modules that keep their weights as they are, by the end of their names; the output head always does."""
