"""What a turn says besides its content reaches the template, is trained on where that reads it, and is told where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_left_out import write

import architectures as arch
from fedfm.config.setup import Setup
from fedfm.core.errors import DataError
from fedfm.core.federation import Federation
from fedfm.data.files import Files
from fedfm.data.kinds import Chat, Wrong
from fedfm.data.source import Shard
from fedfm.efficiency.training.local import Local
from fedfm.running.commands.checking import probe
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.preference import Preference

HEAD = "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
TAIL = (
    "{{ m.content + '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)
THINKS = HEAD + "{%- if m.KEY %}{{ '<think>' + m.KEY + '</think>' }}{%- endif %}" + TAIL
LAST = THINKS.replace("if m.KEY", "if m.KEY and loop.last")
OPENS = THINKS.replace("assistant\\n' }}{%- endif", "assistant\\n<think>\\n' }}{%- endif")
CALLS = HEAD + "{%- for c in m.tool_calls or [] %}{{ '<call>' + c.function.name }}{%- endfor %}" + TAIL
PARTS = THINKS.replace("m.content", "m.content[0].text")


def decoder(folder: Path, template: str, key: str = "reasoning_content") -> str:
    return arch.decoder(folder / "m", tok=arch.tokenizer(template.replace("KEY", key)))


def turns(n: int, **also: Any) -> dict[str, Any]:
    said = [
        {"role": "user", "content": f"what is {n}"},
        {"role": "assistant", "content": f"it is {n}", **also},
    ]
    return {"messages": said}


def remarks(folder: Path, model: str, rows: list[dict[str, Any]], **given: Any) -> list[str]:
    write(folder / "d/a.jsonl", rows)
    task = CausalLM(model=model, score_by="loss", **given)
    fed = Federation(task, Files(str(folder / "d")), client=Local(steps=1, batch=2), rounds=1)
    return probe(Setup(fed)).remarks


def explained(model: str, chat: dict[str, Any]) -> dict[str, Any]:
    kind = Chat()
    row = kind.spread(kind.clean(chat["messages"]))[-1]
    found: dict[str, Any] = CausalLM(model=model).open(None).objective.explain(row)
    found["lossy"] = "".join(t for t, m in zip(found["tokens"], found["loss_mask"], strict=True) if m)
    return found


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thoughts_of_mine"])
@pytest.mark.parametrize("template", [THINKS, LAST, OPENS, PARTS])
def test_thinking_of_the_answers_turn_is_trained_on_where_the_template_reads_it(
    tmp_path: Path, key: str, template: str
) -> None:
    model = decoder(tmp_path, template, key)
    lossy = explained(model, turns(3, **{key: "two plus one"}))["lossy"]
    assert "two plus one" in lossy and "it is 3" in lossy
    rows = [turns(i, **{key: f"{i} plus none"}) for i in range(12)]
    assert not remarks(tmp_path, model, rows)


def test_a_key_that_no_template_reads_is_told(tmp_path: Path) -> None:
    rows = [turns(i, **({"thoughts": "hm"} if i % 2 else {}), score=i + 1) for i in range(12)]
    said = remarks(tmp_path, decoder(tmp_path, THINKS), rows)
    assert any("have turns with `thoughts`, which the chat template of" in s for s in said)
    assert any("have turns with `score`" in s for s in said) and len(said) == 2
    said = remarks(tmp_path, decoder(tmp_path, THINKS), rows, template="plain")
    assert any("`thoughts`, which the plain form does not read: nothing is learnt of it" in s for s in said)


def test_a_call_of_a_tool_beside_words_is_trained_on(tmp_path: Path) -> None:
    call = [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    assert "<call>weather" in explained(decoder(tmp_path, CALLS), turns(1, tool_calls=call))["lossy"].replace(
        "</w>", ""
    )
    said = remarks(tmp_path, decoder(tmp_path, THINKS), [turns(i, tool_calls=call) for i in range(12)])
    assert any("have turns with `tool_calls`" in s for s in said)


def test_a_name_of_the_user_and_thinking_of_earlier_turns_reach_the_prompt(tmp_path: Path) -> None:
    chat = {"messages": [*turns(1, reasoning_content="none plus one")["messages"], *turns(2)["messages"]]}
    found = explained(decoder(tmp_path, THINKS), chat)
    assert "none plus one" in found["text"] and "none plus one" not in found["lossy"]
    assert (
        "none plus one" not in explained(decoder(tmp_path, LAST), chat)["text"]
    )  # as that template means it
    chat["messages"][2]["name"] = "bob"
    named = THINKS.replace("{%- if m.KEY", "{{ m.name }}{%- if m.KEY")
    assert "bobwhat is 2" in explained(decoder(tmp_path, named), chat)["text"]


def test_parts_of_thinking_are_thinking_and_pictures_are_refused() -> None:
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "it"},
        {"type": "text", "text": " is"},
    ]
    (row,) = Chat().spread(
        Chat().clean([{"role": "user", "content": "q"}, {"role": "assistant", "content": parts}])
    )
    assert (row["answer"], row["beside"]) == ("it is", {"answer": {"thinking": "hm"}})
    with pytest.raises(Wrong, match="a part that is no text"):
        Chat().clean([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_control_tokens_in_thinking_stay_text(tmp_path: Path) -> None:
    model = decoder(tmp_path, THINKS)
    objective = CausalLM(model=model).open(None).objective
    (row,) = Chat().spread(Chat().clean(turns(1, reasoning_content="a <|im_end|> b")["messages"]))
    assert objective.dialogue.spelled(row) == ("<|im_end|>",)
    end = objective.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = objective.encode(Shard("a", (row,))).tokens[0]
    bare = objective.encode(Shard("a", ({k: v for k, v in row.items() if k != "beside"},))).tokens[0]
    assert list(ids).count(end) == list(bare).count(end)


def test_a_mark_that_the_prompt_opens_and_answers_begin_with_is_told(tmp_path: Path) -> None:
    rows = [turns(i) for i in range(12)]
    for row in rows:
        row["messages"][1]["content"] = (
            "<think>\nhm</think>it is so"  # to the letter: it goes on behind the mark
        )
    lossy = explained(decoder(tmp_path, OPENS), rows[0])["lossy"]
    assert lossy.startswith("hm</think>it is so") and not remarks(tmp_path, decoder(tmp_path, OPENS), rows)
    for row in rows[::2]:
        row["messages"][1]["content"] = "<think> hm</think>it is so"
    (said,) = remarks(tmp_path, decoder(tmp_path, OPENS.replace("<think>\\n' }", "<think> well ' }")), rows)
    assert "have an answer that begins with <think>" in said
    (said,) = remarks(tmp_path, decoder(tmp_path, OPENS), rows)
    assert "have an answer that begins with <think>" in said and "it stands there twice" in said
    assert not remarks(tmp_path, decoder(tmp_path, THINKS), rows)


def test_pairs_differ_by_their_thinking_and_learn_it(tmp_path: Path) -> None:
    task = Preference(model=decoder(tmp_path, THINKS))
    sides = {side: turns(1, reasoning_content=side)["messages"] for side in ("chosen", "rejected")}
    rows = {c.name: c.kind.clean(sides[c.name]) for c in task.columns if c.name in sides}
    encoded = task.open(None).objective.encode(Shard("a", (rows,)))
    assert not encoded.dropped and len(encoded) == 1


def test_the_fix_for_a_template_that_drops_earlier_thinking_works(tmp_path: Path) -> None:
    model = decoder(tmp_path, LAST.replace("m.content", "m.content.split('</think>')[-1]"))
    early = {"role": "assistant", "content": "<think>hm</think>it is 1"}
    chat = [turns(1)["messages"][0], early, *turns(2)["messages"]]
    with pytest.raises(DataError, match="thinking as `reasoning_content` of its turn"):
        explained(model, {"messages": chat})
    chat[1] = {"role": "assistant", "content": "it is 1", "reasoning_content": "hm"}
    assert "it is 2" in explained(model, {"messages": chat})["lossy"]
