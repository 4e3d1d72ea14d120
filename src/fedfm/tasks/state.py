"""The folder of a model that is a state dict: its tensors, and a README that shows how to take them up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fedfm.tasks.export import write_weights
from fedfm.text import markdown

WEIGHTS, README = "model.safetensors", "README.md"


def write_state(
    state: Mapping[str, Tensor], folder: str, made: str, *, takes: str = "x", labels: Sequence[object] = ()
) -> None:
    """Write `state` as safetensors, and how to load it. `made`: a line of Python that makes the module; `takes`: what it
    is called with; `labels`: the classes in the order of its outputs."""
    tensors = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in state.items()}
    write_weights(tensors, Path(folder, WEIGHTS))
    classes = "".join(f"{k}. {markdown(str(name))}\n" for k, name in enumerate(labels))
    text = _README.format(
        made=made,
        weights=WEIGHTS,
        takes=takes,
        classes=f"\nIts outputs, in this order:\n\n{classes}" if classes else "",
    )
    Path(folder, README).write_text(text, encoding="utf-8")


_README = """# A trained torch module

`{weights}` is its state dict; it loads without fedfm:

```python
import torch
from safetensors.torch import load_file

{made}
net.load_state_dict(load_file("{weights}"))
net.eval()  # dropout off, norms by their running statistics: as it was scored
with torch.no_grad():
    out = net({takes})  # on rows as the run was given them
```
{classes}"""
