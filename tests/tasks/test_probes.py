"""What is trained and what is scored are one text, and a model that cannot do what its task needs is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures as arch
from fedfm.core.errors import DataError, ModelError, Problem
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.prompt import PromptTuning
from fedfm.tasks.probing import open_task, probe
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification

ASK = "{%- if add_generation_prompt %}{{ '<|im_start|>assistantTAIL' }}{%- endif %}"
SAY = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}ANSWER{%- else %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}" + ASK
)


def say(answer: str, tail: str = "\\n") -> str:
    return SAY.replace("ANSWER", answer).replace("TAIL", tail)


WRAPPED = {
    "plain": arch.CHAT,
    "thinks": say(
        "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + m.content + '<|im_end|>\\n' }}"
    ),
    "channel": say("{{ '<|im_start|>assistant<mask>final<unk>' + m.content + '<|im_end|>' }}", ""),
    "no generation prompt": "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}",
    "end in words": "{%- for m in messages %}{{ '### ' + m.role + ':\\n' + m.content + '\\n### end\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '### assistant:\\n' }}{%- endif %}",
}
ROWS = tuple({"instruction": f"say {x}", "answer": f"{x}{x}"} for x in range(1, 9))


def data(*rows: dict[str, Any], labels: tuple[str, ...] | None = None) -> Parties:
    return Parties((Shard("p", rows),), labels=labels)


def opened(folder: str, **given: Any) -> tuple[CausalLM, Any]:
    task = CausalLM(model=folder, **{"max_new_tokens": 40, "tuning": Full(), **given})
    return task, open_task(task, None)


def problems(folder: str, rows: Any = ROWS, **given: Any) -> list[Problem]:
    task, bound = opened(folder, **given)
    return probe(task, bound, data(*rows))


def by_heart(bound: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The scores of a model that says each row's own target, token for token."""
    encoded = bound.encode(Shard("p", tuple(rows)))
    answers = {
        tuple(encoded.tokens[i][: int(encoded.prompts[i])]): encoded.tokens[i][int(encoded.prompts[i]) :]
        for i in range(len(encoded))
    }

    def generate(input_ids: Any, attention_mask: Any, generation_config: Any) -> Any:
        said = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            new = answers[tuple(ids[mask.bool()].tolist())][: generation_config.max_new_tokens]
            said.append([*ids.tolist(), *new, *[0] * (generation_config.max_new_tokens - len(new))])
        return torch.tensor(said)

    monkeypatch.setattr(bound.module, "generate", generate)
    found: dict[str, Any] = bound.score(encoded)
    return found


# ---- a perfect answer is right --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WRAPPED)
def test_what_was_learnt_by_heart_is_right(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = arch.decoder(tmp_path / "m", tok=arch.tokenizer(WRAPPED[name]))
    assert problems(folder) == []
    task, bound = opened(folder)
    assert by_heart(bound, ROWS, monkeypatch)["exact"] == (8.0, 8)


def test_answers_that_cannot_be_reached(tmp_path: Path) -> None:
    folder = arch.decoder(tmp_path / "m")
    (found,) = problems(folder, max_new_tokens=1)
    assert "4 of 4 answers are longer than task.max_new_tokens (1)" in found.what
    assert (
        problems(folder, max_new_tokens=2) == [] and problems(folder, max_new_tokens=1, score_by="loss") == []
    )


def test_a_tokenizer_without_an_end(tmp_path: Path) -> None:
    folder = arch.decoder(tmp_path / "m", tok=arch.tokenizer(None, eos=None, pad=None))
    (found,) = problems(folder)
    assert "no end token" in found.what and problems(folder, score_by="loss") == []


# ---- what the template keeps ----------------------------------------------------------------------------------------
TEMPLATES = {
    "asks only": "{%- for m in messages %}{%- if m.role == 'user' %}{{ '<|im_start|>user\\n' + m.content + "
    "'<|im_end|>\\n<|im_start|>assistant\\n' }}{%- endif %}{%- endfor %}",
    "tells only": "{%- for m in messages %}{%- if m.role == 'assistant' %}{{ m.content }}{%- endif %}{%- endfor %}"
    + ASK,
    "needs a system": "{% if messages[0].role != 'system' %}{{ raise_exception('a system message must come first') }}"
    "{% endif %}",
    "slip": "{% for m in messages %}{{ m.content }",
    "undefined": "{% for m in messages %}{{ m.role + m.content + tools_header }}{% endfor %}",
    "several": {"rag": arch.CHAT, "tool_use": arch.CHAT},
    "reaches out": "{{ ''.__class__.__mro__ }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_lose_or_fail(tmp_path: Path, name: str) -> None:
    folder = arch.decoder(tmp_path / "m", tok=arch.tokenizer(TEMPLATES[name]))
    with pytest.raises(
        ModelError, match=r"(?s)chat template cannot be used.*why: .*fix: task.template=plain"
    ):
        opened(folder)
    assert problems(folder, template="plain") == []


def test_a_template_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedfm.tasks.text import dialogue

    monkeypatch.setattr(dialogue, "SECONDS", 0.3)
    endless = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    folder = arch.decoder(tmp_path / "m", tok=arch.tokenizer(endless))
    start = time.thread_time()
    with pytest.raises(ModelError, match="still busy"):
        opened(folder)
    assert time.thread_time() - start < 30


def test_content_in_parts_is_offered(tmp_path: Path) -> None:
    parts = (
        "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{%- for c in m.content %}"
        "{%- if c.type == 'text' %}{{ c.text }}{%- endif %}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    folder = arch.decoder(tmp_path / "m", tok=arch.tokenizer(parts))
    _, bound = opened(folder)
    assert (
        "<|im_start|>user\nsay 1<|im_end|>\n<|im_start|>assistant\n11"
        in bound.objective.explain(ROWS[0])["text"]
    )
    assert "in parts" in bound.objective.dialogue.form and problems(folder) == []


@pytest.mark.parametrize(
    ("change", "row", "column"),
    [
        ("m.content.split('</think>')[-1]", {"answer": "<think>it is 1</think>11"}, "answer"),
        ("m.content[:20]", {"answer": "a long answer, longer than twenty"}, "answer"),
        ("m.content | replace('1', '')", {"answer": "x"}, "instruction"),
    ],
)
def test_rows_of_which_the_template_leaves_a_part_out(
    tmp_path: Path, change: str, row: Any, column: str
) -> None:
    template = (
        "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{{ "
        + change
        + " }}{{ '<|im_end|>\\n' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    _, bound = opened(arch.decoder(tmp_path / "m", tok=arch.tokenizer(template)))
    rows = Shard("ann", ({"instruction": "say 1", "answer": "11"} | row,))
    with pytest.raises(
        DataError, match=rf"ann: .* leaves out a part of `{column}` in 1 of 1 rows(?s:.)*fix: task.template"
    ):
        bound.encode(rows)


def test_the_date_of_a_template_is_always_the_same(tmp_path: Path) -> None:
    dated = "{{ 'Today is ' + strftime_now('%d %b %Y') + '\\n' }}" + arch.CHAT
    _, bound = opened(arch.decoder(tmp_path / "m", tok=arch.tokenizer(dated)))
    assert "Today is 01 Jan 2025" in bound.objective.explain(ROWS[0])["text"]


def test_which_form_is_used(tmp_path: Path) -> None:
    _, bound = opened(arch.decoder(tmp_path / "m", tok=arch.tokenizer(None)))
    assert bound.objective.dialogue.form == "Instruction:/Answer: (plain; the tokenizer has no chat template)"


# ---- text stays text ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spelled", ["<|im_end|>", "</s>", "<|im_end|>\n<|im_start|>user\nmore"])
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_control_tokens_in_text_are_characters(tmp_path: Path, spelled: str, template: str) -> None:
    _, bound = opened(arch.decoder(tmp_path / "m"), template=template)
    row = {"instruction": f"what is {spelled}?", "answer": f"one{spelled}two"}
    (prompt, answer), (usual, plain) = bound.objective.dialogue.encode(
        [row, {"instruction": "what?", "answer": "one"}]
    )
    decode = bound.objective.tokenizer.decode
    assert f"one{spelled}two" in decode(answer) and answer[-1] == 2 and answer.count(2) == 1
    assert [i for i in prompt if i < 7] == [i for i in usual if i < 7]  # the template's own control tokens
    assert [i for i in answer if i < 7] == [i for i in plain if i < 7]
    assert bound.objective.dialogue.prompts([row])[0] == prompt


def test_data_that_were_rendered_already(tmp_path: Path) -> None:
    folder = arch.decoder(tmp_path / "m")
    rows = [r | {"answer": f"{r['answer']}<|im_end|>\n"} for r in ROWS]
    assert any("spell control tokens such as <|im_end|>" in p.what for p in problems(folder, rows))
    assert problems(folder, [*ROWS[:3], rows[3]]) == []


def test_leading_blanks_are_trained_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, bound = opened(arch.decoder(tmp_path / "m"))
    row = {"instruction": "Complete:\ndef f(x):\n", "answer": "    return x\n"}
    assert (
        bound.objective.explain(row)["text"].endswith("assistant\n    return x\n</s>")
        or "    return x\n" in (bound.objective.explain(row)["text"])
    )
    assert by_heart(bound, [row], monkeypatch)["exact"] == (1.0, 1)
    encoded = bound.encode(Shard("p", (row,)))
    assert bound.objective.by_heart(encoded, 0).startswith("    return x")


def test_prompts_that_fill_the_room(tmp_path: Path) -> None:
    folder = arch.decoder(tmp_path / "m")
    rows = [ROWS[0], *(r | {"instruction": "word " * 60} for r in ROWS[1:])]
    _, bound = opened(folder, max_tokens=60)
    encoded = bound.encode(Shard("p", tuple(rows)))
    assert len(encoded) == 1 and encoded.dropped == {"the prompt fills task.max_tokens (60)": 7}
    assert problems(folder, max_tokens=60) == []


def test_answers_near_the_last_position_are_shortened_for_themselves_alone(tmp_path: Path) -> None:
    _, bound = opened(arch.decoder(tmp_path / "m", "gpt2"), template="plain", max_new_tokens=30)
    texts = ["y", "x" * 225, "z" * 200]
    alone = [bound.objective.predict(bound.module.eval(), [t], bound.device)[0] for t in texts]
    assert bound.objective.predict(bound.module, texts, bound.device) == alone


# ---- the network ----------------------------------------------------------------------------------------------------
def test_a_network_that_sees_what_comes_next(tmp_path: Path) -> None:
    settings = {"vocab_size": arch.VOCAB, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    folder = arch.make(tmp_path / "xlnet", "XLNetConfig", settings, "AutoModelForCausalLM", arch.tokenizer())
    found = problems(folder, score_by="loss")
    assert any("sees the answer that it is scored on" in p.what and "logits move" in p.why for p in found)


def test_a_decoder_that_lost_its_mask(tmp_path: Path) -> None:
    task, bound = opened(arch.decoder(tmp_path / "m"), score_by="loss")
    for layer in bound.module.model.layers:
        layer.self_attn.is_causal = False
    whole = bound.module.model.forward

    def both_ways(*args: Any, **given: Any) -> Any:
        n = given["input_ids"].shape[1]
        given["attention_mask"] = torch.zeros(len(given["input_ids"]), 1, n, n)
        return whole(*args, **given)

    bound.module.model.forward = both_ways
    assert any("sees the answer" in p.what for p in task.probe(bound, data(*ROWS).train("p")))


def test_words_that_the_tokenizer_does_not_know(tmp_path: Path) -> None:
    from fedfm.models import tiny

    task = SequenceClassification(model=str(tiny("encoder", tmp_path / "e")))
    for text, wrong in (("the red rose", False), ("дом и сад", True), ("房子", True)):
        rows = data({"text": text, "label": "x"}, {"text": f"{text} {text}", "label": "y"}, labels=("x", "y"))
        found = probe(task, open_task(task, rows), rows)
        assert bool(found) is wrong and all("its tokenizer knows few of the words" in p.what for p in found)


def test_a_step_that_leaves_something_behind() -> None:
    from fedfm.tasks.own.module import Torch

    class Hidden(torch.nn.Linear):
        """Keeps a running number in a plain attribute, where nothing can see it."""

        kept = 0.0

        def forward(self, x: Any) -> Any:
            if self.training:
                self.kept = self.kept + float(x.abs().mean())
            return super().forward(x) * (1 + self.kept)

    rows = Parties((Shard("p", tuple({"x": torch.randn(3), "y": i % 2} for i in range(6))),))
    task = Torch(lambda: Hidden(3, 2))
    (found,) = probe(task, open_task(task, rows), rows)
    assert "keeps something from one step to the next" in found.what
    clean = Torch(lambda: torch.nn.Linear(3, 2))
    assert probe(clean, open_task(clean, rows), rows) == []


def test_a_save_that_is_not_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, bound = opened(arch.decoder(tmp_path / "m"), tuning=PromptTuning(tokens=2))
    assert probe(task, bound, data(*ROWS)) == []
    monkeypatch.setattr(PromptTuning, "reload", lambda self, base, folder: self.apply(base))
    (found,) = probe(task, bound, data(*ROWS))
    assert "is not what was trained" in found.what


def test_a_probe_leaves_everything_as_it_was(tmp_path: Path) -> None:
    task, bound = opened(arch.decoder(tmp_path / "m"))
    bound.module.train()
    start, state, threads = bound.read(), torch.get_rng_state(), torch.get_num_threads()
    assert probe(task, bound, data(*ROWS)) == []
    assert (
        torch.equal(bound.read(), start)
        and torch.equal(torch.get_rng_state(), state)
        and bound.module.training
    )
    assert torch.get_num_threads() == threads and not list(tmp_path.glob("*.json"))
    assert probe(task, bound, replace(data(), shards=())) == []
