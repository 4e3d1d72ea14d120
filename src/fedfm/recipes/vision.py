"""Federations on images: plain averaging, sub-models by width, and a model cut in two."""

from __future__ import annotations

from fedfm.cards.registry import recipe
from fedfm.core.federation import Federation, replace
from fedfm.data.fashion_mnist import FashionMnist
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.computation.split.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.engines.processes import Processes
from fedfm.tasks.vision.image import ImageClassification


@recipe(
    "fedavg-vision",
    section="IV.A",
    survey=(25,),
    atlas=("fedavg",),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
)
def fedavg_vision() -> Federation:
    """FedAvg of a small convolutional network on a Fashion-MNIST subset, 8 parties."""
    return Federation(
        task=ImageClassification(),
        data=FashionMnist(),
        client=Local(lr=0.1, momentum=0.9, steps=20, batch=32),
        engine=Processes(),
        rounds=15,
    )


@recipe(
    "heterofl",
    section="IV.C",
    survey=(31,),
    atlas=("heterofl",),
    paper="Diao et al., HeteroFL: Computation and Communication Efficient FL for Heterogeneous Clients, 2021",
)
def heterofl() -> Federation:
    """Parties train the whole network, half or a quarter of its width."""
    return replace(
        fedavg_vision(),
        client=Local(lr=0.03, momentum=0.9, steps=20, batch=32),
        rounds=25,
        select=HeteroFL(widths=(1.0, 0.5, 0.25)),
        aggregate=Mean(weights="equal"),
    )


@recipe(
    "splitfed",
    section="IV.B",
    survey=(207,),
    atlas=("splitfed",),
    paper="Thapa et al., SplitFed: When Federated Learning Meets Split Learning, 2022",
)
def splitfed() -> Federation:
    """The first block stays with the party, the rest of the network with the server; activations and gradients travel."""
    return replace(
        fedavg_vision(), client=SplitFed(Local(lr=0.1, steps=20, batch=32)), server=SplitFedServer(lr=0.1)
    )
