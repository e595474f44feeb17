"""Certificates for a contest: kits for cells, and files in PEM for everybody else."""

from __future__ import annotations

import datetime
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provisioning import provision

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["issue"]

NAMES = {"server": "server", "relay": "R1", "client": "C1"}
"""The common name by role."""
PROJECT = """\
api_version: 3
name: contest
scheme: tcp
participants:
  - {name: server, type: server, org: bench, fed_learn_port: 8002, default_host: 127.0.0.1}
  - {name: R1, type: relay, org: bench, listening_host: {default_host: 127.0.0.1, port: 8003}}
  - {name: C1, type: client, org: bench, connect_to: {name: PARENT}}
"""


def issue(folder: Path, *, with_relay: bool) -> None:
    """Write ``kits``, ``ca.crt``, and a certificate and key for each role into *folder*.

    :param with_relay: whether the kit of the client is for one below the relay
    """
    (folder / "project.yml").write_text(PROJECT.replace("PARENT", "R1" if with_relay else "server"))
    provision(folder / "project.yml", folder / "kits")
    authority = ec.generate_private_key(ec.SECP256R1())
    root = (
        _builder("contest", "contest", authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    _write(folder / "ca.crt", root.sign(authority, hashes.SHA256()))
    for role, name in NAMES.items():
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        leaf = _builder(name, "contest", key).add_extension(hosts, critical=False)
        _write(folder / f"{role}.crt", leaf.sign(authority, hashes.SHA256()))
        (folder / f"{role}.key").touch(mode=0o600)
        (folder / f"{role}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
