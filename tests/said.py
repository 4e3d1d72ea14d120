"""The words of the data error that a call ends in."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm.core.errors import DataError


def said(call: Any) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)
