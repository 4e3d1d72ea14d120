"""What secure aggregation is made of: sealed shares, the mask stream, Shamir's scheme."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.core.context import Ctx
from fedfm.trust.privacy.secure import masks, shamir


def test_shares_meant_for_another_attempt_do_not_open() -> None:
    a, b = b"\3" * 32, b"\4" * 32
    about, other = masks.topic("t", 0, 1), masks.topic("t", 1, 0)
    key = masks.agree(a, masks.public(b), about)
    assert masks.agree(b, masks.public(a), about) == key != masks.agree(a, masks.public(b), other)
    sealed = masks.seal(key, b"share", about)
    assert masks.unseal(key, sealed, about) == b"share"
    with pytest.raises(ValueError, match="altered"):
        masks.unseal(key, sealed, other)


def test_mask_stream_is_aes_256_counter_mode() -> None:
    """The oracle is the block cipher itself on the counters 0, 1, 2."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    blocks = b"".join(k.to_bytes(16, "big") for k in range(3))
    want = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)
    x = torch.zeros(5, dtype=torch.int64)
    masks.add(x, key, 1)
    assert bytes(x.view(torch.uint8).tolist()) == want[:40]
    masks.add(x, key, -1)
    assert not x.any()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shamir_any_t_shares_give_the_secret(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    t = data.draw(st.integers(1, n))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    shares = dict(enumerate(shamir.split(secret, t, n, Ctx.secret), 1))
    some = data.draw(st.permutations(sorted(shares)))[:t]
    assert shamir.join({x: shares[x] for x in some}, 32) == secret


def test_fewer_than_t_shares_fit_every_secret() -> None:
    """t - 1 shares and any claimed secret interpolate to a polynomial of degree t - 1: they rule nothing out."""
    shares = shamir.split(b"\7" * 32, 3, 5, Ctx.secret)
    for claim in (0, 1, 2**255):
        # Through (0, claim), (1, s1), (2, s2): the value at 3 of that polynomial completes a valid sharing.
        s1, s2 = (int.from_bytes(s, "big") for s in shares[:2])
        third = (claim - 3 * s1 + 3 * s2) % shamir.PRIME  # third differences of a quadratic vanish
        forged = {1: shares[0], 2: shares[1], 3: third.to_bytes(shamir.WIDTH, "big")}
        assert shamir.join(forged, 32) == claim.to_bytes(32, "big")
    with pytest.raises(ValueError, match="not of one secret"):
        shamir.join({1: shares[0], 2: shares[1], 3: bytes(shamir.WIDTH)}, 32)
