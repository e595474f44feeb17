"""Real proxies, started by the tests on loopback: nginx and haproxy as an ingress, tinyproxy as a site's way out."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.conftest import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_SECONDS = 10.0
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"


def installed(name: str) -> str:
    """Return the path of a program; in CI, where all are to be there, it is an error if it is missing."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        if os.environ.get("CELLNET_NEEDS_PROXIES"):
            pytest.fail(f"{name} is not installed")
        # not a package of Python, so no developer's machine has to have it; CI installs it and says so above
        pytest.skip(f"{name} is not installed: apt-get install nginx-core libnginx-mod-stream haproxy tinyproxy")
    return path


@dataclass
class Certified:
    """The certificate of an ingress, from an authority that has nothing to do with cells."""

    roots: Path
    certificate: Path
    key: Path
    both: Path


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    """Issue a certificate for localhost."""
    now = datetime.datetime.now(datetime.UTC)

    def issue(name: str, usage: object, issuer: object, signer: ec.EllipticCurvePrivateKey, key: object) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        )
        if usage is not None:
            hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ingress authority")])
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = issue("localhost", ExtendedKeyUsageOID.SERVER_AUTH, authority, root, leaf)
    folder = tmp_path / "ingress"
    folder.mkdir()
    files = Certified(folder / "roots.pem", folder / "crt.pem", folder / "key.pem", folder / "both.pem")
    files.roots.write_bytes(issue("ingress authority", None, None, root, root))
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    files.both.write_bytes(certificate + key)
    return files


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until it listens at *port*, and for the length of the block; it is ended by its id."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_listening(process, port, folder)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_listening(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"{process.args} does not listen: {(folder / 'log').read_text()[-2000:]}")


@dataclass
class Proxy:
    """A proxy that can be started, ended, and started again at the same port."""

    port: int
    start: Callable[[], object]


def nginx(folder: Path, certified: Certified, kind: str, backend: int, *, idle: str = "1h") -> tuple[list[str], int]:
    """Return the command of an nginx, and its port.

    :param kind: ``tcp``, ``http``, ``grpc`` for an ingress that ends TLS; ``sni`` for one that does not
    :param idle: how long it bears silence
    """
    program = installed("nginx")
    (port,) = free_ports(1)
    tls = f"ssl_certificate {certified.certificate}; ssl_certificate_key {certified.key};"
    stream = http = ""
    if kind == "tcp":
        stream = (
            f"server {{ listen 127.0.0.1:{port} ssl; {tls} proxy_pass 127.0.0.1:{backend}; proxy_timeout {idle}; }}"
        )
    elif kind == "sni":
        stream = (
            f"map $ssl_preread_server_name $b {{ localhost 127.0.0.1:{backend}; default 127.0.0.1:1; }}"
            f"server {{ listen 127.0.0.1:{port}; ssl_preread on; proxy_pass $b; proxy_timeout {idle}; }}"
        )
    elif kind == "http":
        http = (
            "map $http_upgrade $cu { default upgrade; '' close; }"
            f"server {{ listen 127.0.0.1:{port} ssl; {tls} location / {{ proxy_pass http://127.0.0.1:{backend};"
            "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $cu;"
            f"proxy_set_header Host $host; proxy_read_timeout {idle}; proxy_send_timeout {idle};"
            "proxy_buffering off; } }"
        )
    else:
        http = (
            f"server {{ listen 127.0.0.1:{port} ssl http2; {tls} client_max_body_size 0; client_body_timeout {idle};"
            f"location / {{ grpc_pass grpc://127.0.0.1:{backend}; grpc_read_timeout {idle}; grpc_send_timeout {idle};"
            "grpc_socket_keepalive on; } }"
        )
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in _NGINX_PATHS)
    module = f"load_module {NGINX_STREAM};" if stream else ""
    config = (
        f"{module} daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/log info;"
        f"events {{}} " + (f"stream {{ {stream} }}" if stream else f"http {{ {paths} access_log off; {http} }}")
    )
    (folder / "nginx.conf").write_text(config)
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], port


_NGINX_PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def haproxy(folder: Path, certified: Certified, kind: str, backend: int, *, idle: str = "1h") -> tuple[list[str], int]:
    """Return the command of a haproxy, and its port; see :func:`nginx`."""
    program = installed("haproxy")
    (port,) = free_ports(1)
    bind = f"bind 127.0.0.1:{port}" + ("" if kind == "sni" else f" ssl crt {certified.both}")
    mode, more, server = {
        "tcp": ("tcp", "", ""),
        "sni": (
            "tcp",
            "  tcp-request inspect-delay 5s\n  tcp-request content accept if { req.ssl_hello_type 1 }\n"
            "  use_backend cells if { req.ssl_sni -i localhost }\n",
            "",
        ),
        "http": ("http", "", ""),
        "grpc": ("http", "", " proto h2"),
    }[kind]
    bind += {"http": " alpn http/1.1", "grpc": " alpn h2"}.get(kind, "")
    (folder / "haproxy.cfg").write_text(
        "global\n  maxconn 1024\ndefaults\n"
        f"  timeout connect 5s\n  timeout client {idle}\n  timeout server {idle}\n  timeout tunnel {idle}\n"
        f"frontend arrivals\n  mode {mode}\n  {bind}\n{more}"
        + ("" if kind == "sni" else "  default_backend cells\n")
        + f"backend cells\n  mode {mode}\n  server one 127.0.0.1:{backend}{server}\n"
    )
    return [program, "-db", "-f", str(folder / "haproxy.cfg")], port


def tinyproxy(folder: Path, allowed: int, *, password: str | None = None) -> tuple[list[str], int]:
    """Return the command of a forward proxy that lets CONNECT to one port pass, and its own port."""
    program = installed("tinyproxy")
    (port,) = free_ports(1)
    (folder / "tinyproxy.conf").write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nMaxClients 100\nConnectPort {allowed}\n"
        f'LogLevel Info\nLogFile "{folder}/tinyproxy.log"\nPidFile "{folder}/pid"\n'
        + (f"BasicAuth user {password}\n" if password else "")
    )
    return [program, "-d", "-c", str(folder / "tinyproxy.conf")], port
