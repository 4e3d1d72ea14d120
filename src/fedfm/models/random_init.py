"""Tiny models with random weights, made in a moment without any download: for tests and dry runs.

Same seed, same bytes: the weights come from one generator in the order of their names, whatever the version
of the libraries. Both tokenizers cover any text.
"""

from __future__ import annotations

import json
import os
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfm.core.errors import ModelError
from fedfm.files import path as meant

if TYPE_CHECKING:
    import torch

_WORDS = """
the a an of to in and or is are was were be has have had for on with as by at from that this it its not no
one two which who whose when where how what used use using made make part kind type form small large great
long short new old good bad man woman people person child animal plant food body place time year day night
water fire air earth house city country state work money market price bank loan law court doctor nurse
patient disease drug music art book word name number color red green blue white black yellow question answer
yes positive negative neutral true false
"""

_CHAT = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny(kind: str, folder: str | os.PathLike[str], *, seed: int = 0) -> Path:
    """Write a random model of `kind` ('encoder': BERT, 'causal-lm': LLaMA) to `folder`, Hugging Face layout.

    2 layers of width 32, no dropout. The causal LM has one token per byte and a chat template.
    Raises ModelError for another kind.
    """
    makers = {"encoder": _encoder, "causal-lm": _causal_lm}
    if kind not in makers:
        raise ModelError(f"tiny: no kind '{kind}'\n    fix: choose one of {', '.join(makers)}")
    where = meant(folder)
    where.mkdir(parents=True, exist_ok=True)
    makers[kind](where, seed)
    return where


def _encoder(folder: Path, seed: int) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [
        *special,
        *signs,
        *(f"##{sign}" for sign in string.ascii_lowercase + string.digits),
        *_WORDS.split(),
    ]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.add_special_tokens(special)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=vocab["[PAD]"],
        architectures=["BertModel"],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {**names, "mask_token": "[MASK]", "model_max_length": 128, "model_input_names": inputs}
    _save(folder, BertModel, config, tokenizer, settings, seed)


def _causal_lm(folder: Path, seed: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokens: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        **tokens,
    )
    settings = {
        "pad_token": "<|endoftext|>",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "model_max_length": 512,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    _save(folder, LlamaForCausalLM, config, tokenizer, settings, seed)
    (folder / "chat_template.jinja").write_text(_CHAT, encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(tokens, indent=2) + "\n", encoding="utf-8")


def _save(
    folder: Path, network: Any, config: Any, tokenizer: Any, settings: dict[str, Any], seed: int
) -> None:
    import torch
    from safetensors.torch import save_file

    with torch.device("meta"):  # names and shapes only: no draw from the global generator
        shapes = {name: value.shape for name, value in network(config).state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _draw(name, shape, generator) for name, shape in sorted(shapes.items())}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    record = config.to_diff_dict()
    record.pop("transformers_version", None)
    (folder / "config.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    record = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    import torch

    if len(shape) < 2:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    # words outweigh positions, so that mean-pooled features of an untrained encoder still tell texts apart;
    # 0.1 keeps the first loss of a tied head near log(vocabulary)
    scale = {"word_embeddings": 1.0, "embeddings": 0.1, "embed_tokens": 0.1}
    std = next((value for part, value in scale.items() if part in name), shape[-1] ** -0.5)
    return torch.randn(shape, generator=generator) * std
