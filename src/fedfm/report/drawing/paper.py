"""The templates of the page: every value is cleaned and escaped on its way in, and a missing one is an error."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fedfm.report.drawing.markup import data
from fedfm.text import clean, clip

FOLDER = Path(__file__).resolve().parents[1] / "templates"


def render(name: str, **values: Any) -> str:
    """The template of that name, with style, script and the policy that lets only this script run."""
    script = _file("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Only this very script may run, whatever text a ledger smuggles in; nothing may be fetched.
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    style = {"style": Markup(_file("style.css")), "dark": Markup(_file("dark.css"))}
    return _paper().get_template(name).render(script=Markup(script), policy=policy, **style, **values)


@lru_cache(maxsize=1)
def _paper() -> jinja2.Environment:
    paper = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    paper.filters |= {"clip": clip, "data": data}
    return paper


@lru_cache(maxsize=8)
def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
