"""A method is found under the name of its class, of its card, and under what others call it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import fedfm
from fedfm.cards.registry import methods
from fedfm.cli import app
from fedfm.core.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Gaussian", "'gaussian' is fedfm.ClipNoise"),
        ("gaussian", "'gaussian' is fedfm.ClipNoise"),
        ("DPSGD", "'gaussian' is fedfm.ClipNoise"),
        ("MultiKrum", "'krum' is fedfm.Krum"),
        ("Secagg", "'secagg' is fedfm.SecAgg"),
        ("ClipNoize", "did you mean fedfm.ClipNoise"),
        ("replce", "did you mean fedfm.replace"),
    ],
)
def test_what_is_no_attribute_names_the_class(name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=meant):
        getattr(fedfm, name)


def test_every_card_leads_to_its_class() -> None:
    for card in [c for c in methods().values() if c.module.startswith("fedfm.") and "." not in c.qualname]:
        name = "".join(map(str.capitalize, card.name.split("-")))
        if name not in dir(fedfm):
            with pytest.raises(AttributeError, match=rf"fedfm\.{card.qualname}\b"):
                getattr(fedfm, name)


@pytest.mark.parametrize(
    ("name", "meant"), [("dp-sgd", "'gaussian'"), ("DP_SGD", "'gaussian'"), ("rfa", "geometric")]
)
def test_show_answers_a_name_of_elsewhere(name: str, meant: str) -> None:
    found = CliRunner().invoke(app, ["show", name]).exception
    assert isinstance(found, ConfigError) and "here it is called" in found.problems[0].why
    assert meant in found.problems[0].why


def test_show_gives_the_class() -> None:
    assert "Python: fedfm.ClipNoise(...)" in CliRunner().invoke(app, ["show", "gaussian"]).output
