"""A checkpoint is opened whole or not at all: what is missing, damaged, foreign or of another kind is refused."""

from __future__ import annotations

import builtins
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import architectures as arch
from fedfm import models
from fedfm.core.errors import ModelError
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.running.course.leaving import model_of
from fedfm.tasks.network import load_base, load_tokenizer
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.vision.encoder import _told

LM, ENCODER = "AutoModelForCausalLM", "AutoModel"
WORDS = Parties((Shard("p", ({"text": "a", "label": "x"}, {"text": "b", "label": "y"})),), labels=("x", "y"))


@pytest.fixture
def llama(tmp_path: Path) -> str:
    return arch.decoder(tmp_path / "llama")


@pytest.fixture
def bert(tmp_path: Path) -> str:
    return arch.encoder(tmp_path / "bert")


def three_lines(e: pytest.ExceptionInfo[ModelError]) -> list[str]:
    return [line.strip().split(":")[0] for line in str(e.value).splitlines()[1:3]]


# ---- every tensor from the checkpoint -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rename", "settings", "match"),
    [
        (lambda k: "net." + k, {}, "tensors of the network are not in the checkpoint"),
        (lambda k: None if "layers.1." in k else k, {}, r"not in the checkpoint \(model.layers.1"),
        (lambda k: None if "lm_head" in k else k, {}, r"1 tensors .* \(lm_head.weight\)"),
        (lambda k: k, {"num_hidden_layers": 4}, "not in the checkpoint"),
        (lambda k: k, {"num_hidden_layers": 1}, "have no place in the network"),
        (lambda k: None if "q_proj" in k else k, {}, "q_proj"),
        (lambda k: k.replace("mlp.", "ffn."), {}, r"which holds .*ffn"),
    ],
)
def test_weights_that_do_not_fit_the_config(
    llama: str, rename: Callable[[str], str | None], settings: dict[str, Any], match: str
) -> None:
    assert load_base(LM, llama) is not None
    arch.reweigh(llama, rename)
    arch.reconfigure(llama, **settings)
    with pytest.raises(ModelError, match=match) as e:
        load_base(LM, llama)
    assert three_lines(e) == ["why", "fix"]


def test_an_encoder_that_lacks_a_layer(bert: str) -> None:
    arch.reweigh(bert, lambda k: None if "layer.1." in k else k)
    with pytest.raises(ModelError, match=r"not in the checkpoint \(encoder.layer.1"):
        load_base(ENCODER, bert)


@pytest.mark.parametrize("auto", ["AutoModelForMaskedLM", "AutoModelForSequenceClassification"])
def test_heads_beside_an_encoder_may_be_left_over(tmp_path: Path, auto: str) -> None:
    config, settings = arch.ENCODERS["bert"]
    folder = arch.make(tmp_path / "headed", config, settings, auto, arch.tokenizer(cls=True))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        whole = load_base(ENCODER, folder)
    heads = [str(w.message) for w in told if "trained head (classifier" in str(w.message)]
    assert bool(heads) == (
        "Classification" in auto
    )  # words that nobody asks for may go in silence, a classifier not
    arch.reweigh(folder, lambda k: None if "pooler" in k or k.startswith("classifier") else k)
    assert load_base(ENCODER, folder) is not None  # it would be thrown away
    assert whole.encoder.layer[0].attention.self.query.weight.any()


# ---- what it is ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_encoders_are_no_language_models(tmp_path: Path, name: str) -> None:
    config, settings = arch.ENCODERS[name]
    folder = arch.make(tmp_path / name, config, settings, LM, arch.tokenizer())
    with pytest.raises(ModelError, match=r"(?s)is an encoder.*fix: .*sequence-classification"):
        CausalLM(model=folder).open(None)


def test_what_no_text_task_reads_says_what_it_is(tmp_path: Path) -> None:
    from transformers import T5Config, ViTConfig

    T5Config(vocab_size=arch.VOCAB, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8).save_pretrained(
        tmp_path
    )
    arch.tokenizer().save_pretrained(tmp_path)
    for auto in (LM, ENCODER):
        with pytest.raises(ModelError, match=r"is a sequence-to-sequence model \(t5\)"):
            load_base(auto, str(tmp_path))
    ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    for auto in (LM, ENCODER):
        with pytest.raises(ModelError, match=r"is a vision model \(vit\)"):
            load_base(auto, str(tmp_path))


# ---- other files of the folder ------------------------------------------------------------------------------------
@pytest.mark.parametrize("tuning", [None, Full()])
def test_an_adapter_beside_a_checkpoint(llama: str, tuning: Any) -> None:
    Path(llama, "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds a checkpoint and an adapter") as e:
        CausalLM(model=llama, **({"tuning": tuning} if tuning else {})).open(None)
    assert three_lines(e) == ["why", "fix"]


def test_code_of_a_folder_is_never_run_and_nobody_is_asked(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtins, "input", lambda *a: pytest.fail("asked"))
    proof = tmp_path / "proof"
    source = f"open({str(proof)!r}, 'w')\nfrom transformers import BertConfig as HouseConfig, BertModel as HouseModel\n"
    Path(bert, "house.py").write_text(source)
    settings = {"auto_map": {"AutoConfig": "house.HouseConfig", "AutoModel": "house.HouseModel"}}
    arch.reconfigure(bert, **settings)
    load_base(ENCODER, bert)  # of a type that the library knows: its own code is taken
    arch.reconfigure(bert, model_type="housebert")
    with pytest.raises(
        ModelError, match=r"brings code of its own \(house.py\), and fedfm does not run it"
    ) as e:
        load_base(ENCODER, bert)
    assert not proof.exists() and "trust_remote_code" not in str(e.value)
    tokens = Path(bert, "tokenizer_config.json")
    tokens.write_text(
        json.dumps({"tokenizer_class": "HouseTokenizer", "auto_map": {"AutoTokenizer": ["house.T", None]}})
    )
    with pytest.raises(ModelError, match="does not run it"):
        load_tokenizer(bert)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "electra"])
def test_no_tokenizer_is_invented(tmp_path: Path, name: str) -> None:
    folder = Path(arch.encoder(tmp_path / name, name))
    for file in [*folder.glob("tokenizer*"), *folder.glob("special*"), *folder.glob("chat*")]:
        file.unlink()
    with pytest.raises(ModelError, match=r"(?s)token.*fix: "):
        load_tokenizer(str(folder))


class Other:
    """What a training script pickled beside the weights."""

    def __reduce__(self) -> Any:
        import os

        return (os.getcwd, ())


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    (folder / "pytorch_model.bin").write_text(text)


def half(folder: Path) -> None:
    pickled(folder, {"a": torch.ones(4000)})
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:8000])


def pickled(folder: Path, what: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(what, folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20_000])


def coded(dtype: torch.dtype) -> Callable[[Path], None]:
    """Its matrices as a quantiser writes them, and nothing that says so."""

    def code(folder: Path) -> None:
        file = folder / "model.safetensors"
        weights = {k: v.to(dtype) if v.dim() > 1 else v for k, v in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})

    return code


def config(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: arch.reconfigure(str(folder), **settings)


FAULTS: dict[str, Callable[[Path], Any]] = {
    "lfs": pointer,
    "half": half,
    "pickled": lambda folder: pickled(folder, {"args": Other()}),
    "cut": cut,
    **{
        how: config(quantization_config={"quant_method": how, "bits": 4})
        for how in ("gptq", "awq", "bitsandbytes")
    },
    **{f"codes-{t}": coded(getattr(torch, t)) for t in ("int8", "uint8", "float8_e4m3fn")},
    "deep": config(num_hidden_layers=10**9),
    "vocabulary": config(vocab_size=300),
    "value": config(hidden_size=33),
    "type": config(num_attention_heads="four"),
    "json": lambda folder: (folder / "config.json").write_text('{"model_type": '),
    "list": lambda folder: (folder / "config.json").write_text("[]"),
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_faulty_folder_is_what_why_fix(llama: str, how: str) -> None:
    FAULTS[how](Path(llama))
    with pytest.raises(ModelError) as e:
        CausalLM(model=llama).open(None)
    assert three_lines(e) == ["why", "fix"] and len(str(e.value)) < 1500
    said = {
        "lfs": "git lfs pull",
        "pickled": "nothing is ever unpickled",
        "gptq": "name the original model",
        "half": "download it again",
        "codes-int8": "nobody says what scale they have",
        "codes-float8_e4m3fn": "codes of a quantiser",
        "deep": "num_hidden_layers=1,000,000,000",
        "vocabulary": "in the network",
    }
    assert said.get(how, "") in str(e.value)
    assert not {"weights_only", "trust_remote_code", "ignore_mismatched_sizes"} & set(str(e.value).split())


@pytest.mark.parametrize(
    ("second", "match"),
    [
        ("../beside.safetensors", "outside of the folder"),
        ("{folder}/../beside.safetensors", "outside of the folder"),
        ("below/part.safetensors", "outside of the folder"),
        ("part-2.safetensors", "part-2.safetensors is missing"),
    ],
)
def test_an_index_names_what_lies_beside_it(llama: str, second: str, match: str) -> None:
    """What lies elsewhere is in no digest of the model, so it could change between a run and its resume."""
    folder = Path(llama)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"part-1.safetensors": names[::2], second.format(folder=folder): names[1::2]}
    for name, of in parts.items():
        if "missing" not in match or name == "part-1.safetensors":
            (folder / name).parent.mkdir(exist_ok=True)
            save_file({k: tensors[k] for k in of}, folder / name, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: name for name, of in parts.items() for k in of}}))
    with pytest.raises(ModelError, match=match) as e:
        models.path(llama)
    assert three_lines(e) == ["why", "fix"]
    for odd in ('{"weight_map": null}', "{}", '{"weight_map": {}}'):
        index.write_text(odd)
        with pytest.raises(ModelError, match="names no weights"):
            models.path(llama)
    save_file(
        tensors, folder / "model.safetensors", {"format": "pt"}
    )  # which is read, whatever the index says
    assert models.path(llama) == llama and load_base(LM, llama) is not None


def test_shards_beside_their_index_are_the_model(llama: str) -> None:
    whole = load_base(LM, llama)
    shutil.move(Path(llama) / "model.safetensors", Path(llama) / "whole")
    whole.save_pretrained(llama, max_shard_size="20KB")
    assert len(list(Path(llama).glob("model-0*.safetensors"))) > 1
    again = load_base(LM, llama).state_dict()
    assert all(torch.equal(again[k], v) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_record_beside_a_model_is_named(llama: str, content: bytes, tmp_path: Path) -> None:
    def opened(path: str, read: Callable[[], Any]) -> None:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        with pytest.raises(
            ModelError, match="(cannot be read|is no JSON object)(?s:.*)fix: restore the file"
        ):
            read()

    opened("models/parties.json", lambda: model_of(tmp_path, "p"))
    opened("llama/preprocessor_config.json", lambda: _told(llama))
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "adapter_config.json").write_text("{}")
    going_on = CausalLM(model=llama, start=str(tmp_path / "tuned"))
    opened("tuned/fedfm-task.json", lambda: going_on.open(None))


# ---- which model it is --------------------------------------------------------------------------------------------
def test_a_base_has_one_identity(llama: str) -> None:
    one = models.base(llama)
    assert one == models.base(llama) and one.revision is None and one.source == llama
    shutil.copy(Path(llama, "chat_template.jinja"), Path(llama, "kept"))
    Path(llama, "chat_template.jinja").write_text("{{ messages }}")
    two = models.base(llama)
    assert two.words != one.words and two.weights == one.weights
    arch.reweigh(llama, lambda k: k)
    arch.reconfigure(llama, rms_norm_eps=1e-3)
    assert models.base(llama).weights != one.weights


def test_a_model_of_the_hub_is_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: str
) -> None:
    from huggingface_hub import constants

    from fedfm.models import hub, reach

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(reach, "reachable", lambda: False)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    hub.snapshot.cache_clear()
    place = tmp_path / "hub" / "models--org--tiny"
    for name, commit in (("main", "a" * 40), ("v1.0", "b" * 40)):
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / name).write_text(commit)
        shutil.copytree(llama, place / "snapshots" / commit)
    assert models.base("org/tiny").revision == "a" * 40
    assert (
        models.base("org/tiny@v1.0").revision == "b" * 40
        and models.base("org/tiny@v1.0").source == "org/tiny"
    )
    assert models.here("org/tiny@v1.0") is not None and models.here("org/other") is None
    with pytest.raises(ModelError, match="org/tiny@v9"):
        models.local("org/tiny@v9")
    bound = CausalLM(model="org/tiny@v1.0").open(None)
    bound.objective.save(bound.module, str(tmp_path / "model"))
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "b" * 40)
    assert f'revision="{"b" * 40}"' in (tmp_path / "model" / "README.md").read_text()


def test_ids_beyond_the_embedding(tmp_path: Path) -> None:
    added = arch.tokenizer(pad=None)
    added.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(
        ModelError, match=r"264 tokens, the model's embedding 263 rows(?s:.)*pad token is number 263"
    ):
        CausalLM(model=arch.decoder(tmp_path / "pad", tok=added)).open(None)
    words = arch.tokenizer(cls=True)
    words.add_tokens(["bark"])
    task = SequenceClassification(model=arch.encoder(tmp_path / "word", tok=words))
    bound = task.open(WORDS)
    bound.encode(WORDS.train("p"))
    with pytest.raises(ModelError, match="a text holds 'bark', which is number 263"):
        bound.encode(Shard("p", ({"text": "bark", "label": "x"},)))


@pytest.mark.parametrize(("name", "most"), [("bert", 512), ("roberta", 511), ("mpnet", 510), ("gpt2", 256)])
def test_texts_fill_the_positions_and_no_more(tmp_path: Path, name: str, most: int) -> None:
    """RoBERTa and MPNet number from their padding index + 1: with 512 rows, 511 and 510 positions."""
    bound = SequenceClassification(
        model=arch.encoder(tmp_path / name, name), max_tokens=9999, tuning=Full()
    ).open(WORDS)
    shard = Shard("p", ({"text": "x" * 600, "label": "x"},))
    encoded = bound.encode(shard)
    assert bound.objective.limit == most == int(encoded.tokens.lengths[0]) and encoded.cut == 1
    bound.gradient(bound.batch(encoded, torch.tensor([0])))


def test_a_config_without_a_limit(tmp_path: Path) -> None:
    settings = {"vocab_size": arch.VOCAB, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    folder = arch.make(tmp_path / "xlnet", "XLNetConfig", settings, ENCODER)
    bound = SequenceClassification(model=folder, max_tokens=300, tuning=Full()).open(WORDS)
    assert bound.objective.limit == 300
