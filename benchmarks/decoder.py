"""A decoder of real size under fedfm, beside the same steps in a bare loop of torch and peft: tokens/s, peak memory.

    python benchmarks/decoder.py --params 7b --device cuda       (bf16, LoRA; needs 15 GB of disk, 40 GB of GPU memory)
    python benchmarks/decoder.py                                 (a tiny shape on the CPU, for a look)

The model is made on the spot with random weights in a folder that is thrown away: speed does not depend on what they
are. Each party takes `--steps` steps of `--batch` examples of `--tokens` tokens a round, from the round's model, with
an optimiser of its own. On a GPU fedfm takes deterministic kernels; the bare loop is measured with torch's defaults
and with these. The bare loop takes the same batches from the same weights, with the library's own loss; the
first round's losses are compared, which proves that both did the same work. fedfm's seconds are of whole rounds (plan,
work, fold, server step, ledger, checkpoint), the loop's of its steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedfm.bench import machine
from fedfm.bench.bed.arena import ENDLESS, NEVER, opened
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, State
from fedfm.data.arrays import Arrays
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local, batches
from fedfm.models import tiny
from fedfm.tasks.network import quiet
from fedfm.tasks.text.causal import CausalLM

SHAPES: dict[str, dict[str, int]] = {  # LLaMA's
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4},
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
VOCABULARY, SEED, LR = 32_000, 0, 1e-4
LORA = LoRA(r=16, alpha=32.0, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
Turn = tuple[str, Any, list[torch.Tensor], float]  # a party, its encoded rows, its batches, its seconds


@dataclass(frozen=True)
class Noted(Local):
    """Local training that notes whose batches were drawn, for the bare loop."""

    seen: list[Turn] = field(default_factory=list, repr=False, compare=False)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        begun = time.perf_counter()
        done = super().work(brief, data, state, ctx, bound)
        self.seen.append((ctx.client, data, list(batches(len(data), self, ctx)), time.perf_counter() - begun))
        return done


def make(shape: str, folder: Path, device: str, tokens: int) -> Path:
    """A decoder of this shape with random bf16 weights and one token per byte, in Hugging Face layout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny("causal-lm", folder)  # for its tokenizer
    (folder / "model.safetensors").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **SHAPES[shape], **ids)
    torch.manual_seed(SEED)
    with torch.device(device):
        network = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    with quiet():
        network.save_pretrained(folder)
    return folder


def texts(parties: int, rows: int, tokens: int) -> dict[str, list[dict[str, str]]]:
    """Rows whose answer fills every position that is left."""
    rng = torch.Generator().manual_seed(SEED)

    def letters(n: int) -> str:
        return "".join(chr(97 + int(k)) for k in torch.randint(0, 26, (n,), generator=rng))

    return {
        f"party-{i}": [{"instruction": letters(8), "answer": letters(tokens)} for _ in range(rows)]
        for i in range(parties)
    }


@dataclass
class Figures:
    """Seconds of each round, peak bytes on the device, last loss of each party in the first round."""

    seconds: list[float]
    peak: int
    losses: dict[str, float]


def federated(
    args: argparse.Namespace, folder: Path
) -> tuple[Figures, dict[str, torch.Tensor], list[list[Turn]]]:
    """Rounds of fedfm; the weights that they began with, by name; who took which batches, by round."""
    client = Noted(lr=LR, steps=args.steps, batch=args.batch, optimizer="adamw")
    fed = Federation(
        task=CausalLM(
            model=str(folder), tuning=LORA, dtype="bfloat16", max_tokens=args.tokens, template="plain",
            score_by="loss", score_batch=args.batch,
        ),
        data=Arrays(texts(args.parties, 4 * args.batch, args.tokens), texts(1, 1, args.tokens)["party-0"]),
        client=client,
        evaluate=NEVER,
        rounds=ENDLESS,
        device=args.device,
    )  # fmt: skip
    with opened(fed) as arena:
        begin: Any = arena.run.bound.layout.views(arena.run.bound.init)
        start = {n: t.clone() for n, t in begin.items()}
        fresh(args.device)
        laps = [arena.lap() for _ in range(1 + args.rounds)]  # the first warms up
        first = {e["client"]: e["loss_last"] for e in laps[0].events if e["kind"] == "upload"}
        found = Figures([lap.wall for lap in laps[1:]], peak(args.device), first)
    n = args.parties
    return found, start, [client.seen[at : at + n] for at in range(0, len(client.seen), n)]


def bare(
    args: argparse.Namespace,
    folder: Path,
    start: dict[str, torch.Tensor],
    rounds: list[list[Turn]],
    again: bool,
) -> Figures:
    """The loop that one would write without fedfm, under torch's own settings, or (`again`) with fedfm's kernels."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.use_deterministic_algorithms(again)
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(args.device)
    lora: dict[str, Any] = {"r": LORA.r, "lora_alpha": LORA.alpha, "target_modules": list(LORA.targets or ())}
    network = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", **lora)).train()
    mine = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert mine.keys() == start.keys()
    fresh(args.device)
    seconds, losses = [], {}
    for k, turns in enumerate(rounds):
        begun = time.perf_counter()
        for party, data, order, _ in turns:
            with torch.no_grad():
                for name, p in mine.items():
                    p.copy_(start[name])
            optimizer = torch.optim.AdamW(mine.values(), lr=LR, weight_decay=0.0)
            for ids, labels in rows(data, order, args.device):
                optimizer.zero_grad()
                loss = network(
                    input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False
                ).loss
                loss.backward()
                optimizer.step()
                last = loss.item()
            if not k:
                losses[party] = last
        if k:
            seconds.append(time.perf_counter() - begun)
    return Figures(seconds, peak(args.device), losses)


def rows(data: Any, order: list[torch.Tensor], device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids (n, tokens) and labels of each batch; all rows are of one length."""
    for index in order:
        ids = torch.tensor([data.tokens[i] for i in index.tolist()])
        labels = ids.clone()
        for row, i in zip(labels, index.tolist(), strict=True):
            row[: int(data.prompts[i])] = -100
        yield ids.to(device), labels.to(device)


def fresh(device: str) -> None:
    """Nothing on the device that is not in use, and the peak counted from here."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for name, default in {"parties": 4, "steps": 4, "batch": 4, "tokens": 512, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)  # of the host, on both sides
    with tempfile.TemporaryDirectory(prefix="fedfm-decoder-") as temporary:
        say(f"making {args.params}")
        folder = make(args.params, Path(temporary), args.device, args.tokens)
        fresh(args.device)
        say("fedfm")
        ours, start, rounds = federated(args, folder)
        fresh(args.device)
        say("bare loop")
        theirs = bare(args, folder, start, rounds, again=False)
        fresh(args.device)
        same = bare(args, folder, start, rounds, again=True)
    tokens = args.parties * args.steps * args.batch * args.tokens
    ours_s, theirs_s, same_s = (statistics.median(f.seconds) for f in (ours, theirs, same))
    report = {
        "ratio": round(ours_s / theirs_s, 4),
        "ratio_same_kernels": round(ours_s / same_s, 4),
        "fedfm": told(ours, tokens)
        | {"local_work": machine.spread(sum(t[3] for t in turns) for turns in rounds[1:])},
        "bare": told(theirs, tokens),
        "bare_same_kernels": told(same, tokens),
        "largest_loss_difference": max(abs(ours.losses[i] - theirs.losses[i]) for i in theirs.losses),
        "first_losses": ours.losses,
        "trained": sum(t.numel() for t in start.values()),
        "setup": vars(args),
        "card": torch.cuda.get_device_name() if args.device == "cuda" else None,
        "machine": machine.describe(),
    }
    print(json.dumps(report, indent=1))


def told(figures: Figures, tokens: int) -> dict[str, Any]:
    rate = round(tokens / statistics.median(figures.seconds))
    return {
        "tokens_s": rate,
        "seconds": machine.spread(figures.seconds),
        "peak_gib": round(figures.peak / 2**30, 2),
    }


def say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
