"""Keys, serial numbers and signatures that are the same in every run, so that a seed means the same inputs."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["reproducible"]


@contextmanager
def reproducible() -> Iterator[None]:
    """Draw nothing by lot in this block: what is made in the same order is the same.

    The length of a certificate depends on its signature; were that drawn, all that is drawn after would differ.
    """
    numbers = count(1)
    sign_certificate = x509.CertificateBuilder.sign

    def generate(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(next(numbers) << 200 | 1, curve)

    def sign(builder: x509.CertificateBuilder, *how: Any, **more: Any) -> x509.Certificate:
        return sign_certificate(builder, *how, **{**more, "ecdsa_deterministic": True})

    # Only where signatures are made: the library compares with the real class.
    signing = SimpleNamespace(**vars(ec))
    signing.ECDSA = partial(ec.ECDSA, deterministic_signing=True)  # in a block in a block, the same again
    with (
        patch.object(ec, "generate_private_key", generate),
        patch.object(x509.CertificateBuilder, "sign", sign),
        patch("provisioning.authority._serial", lambda: next(numbers) << 100 | 1),
        patch("cellnet.signing.ec", signing),
    ):
        yield
