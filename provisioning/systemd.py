"""A systemd unit that runs one node's startup kit as a user of its own, with as few rights as it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from provisioning.plan import Node, Plan

__all__ = ["STOP_SECONDS", "as_unit", "unit_name"]

STOP_SECONDS = 30
"""How long a node may take to end: it answers what it has taken for 10 s, and its jobs and links end after that."""

_FOLDER = "/etc/cellnet"

# A kit is started by the owner of its keys, and has no user yet where it is unpacked. So it stays root's there: systemd
# hands the files of startup/ to a user that exists only while the node runs. They cannot be used where systemd puts
# them, as their names get a prefix there, and keys may count as readable by a group: they are copied, still in memory.
_UNIT = """\
[Unit]
Description=cellnet: {role} {name} of {project}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=exec
DynamicUser=yes
LoadCredential=startup:{folder}/{name}/startup
RuntimeDirectory={unit}
RuntimeDirectoryMode=0700
StateDirectory={unit}
StateDirectoryMode=0700
UMask=0077
LimitNOFILE=65536
Environment=PATH=/opt/cellnet/bin:/usr/local/bin:/usr/bin:/bin
ExecStartPre=/bin/sh -ec '\\
    rm -rf %t/{unit}/kit; mkdir -p %t/{unit}/kit/startup %S/{unit}/local %S/{unit}/transfer; \\
    for file in %d/startup_*; do install -m 0600 "$$file" "%t/{unit}/kit/startup/$${{file##*/startup_}}"; done; \\
    ln -s %S/{unit}/local %S/{unit}/transfer %t/{unit}/kit/'
ExecStart=/usr/bin/env cellnet start %t/{unit}/kit --run %t/{unit}
{reload}Restart=on-failure
RestartSec=30
# mixed: the node itself ends its jobs, in order
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={stop_seconds}

NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
{further}

[Install]
WantedBy=multi-user.target
"""


# A server takes this file while it runs, and from its kit only.
_RELOAD = """\
ExecReload=+/bin/sh -ec '\\
    install -m 0644 {folder}/{name}/startup/denied.bin %t/{unit}/denied.new; \\
    mv %t/{unit}/denied.new %t/{unit}/kit/startup/denied.bin'
"""


def unit_name(node: Node) -> str:
    """Return the name of a node's unit, without its ending; any legal name of a participant makes a legal one."""
    return f"cellnet-{node.name}"


def as_unit(plan: Plan, node: Node) -> str:
    """Return the unit of *node*."""
    names = {"name": node.name, "folder": _FOLDER, "unit": unit_name(node)}
    unit = _UNIT.format(
        **names,
        role=node.role,
        project=plan.project,
        reload=_RELOAD.format(**names) if node.role == "server" else "",
        stop_seconds=STOP_SECONDS,
        further="\n".join(_further_limits(node)),
    )
    return "".join(f"# {line}".rstrip() + "\n" for line in _header(plan, node)) + unit


def _header(plan: Plan, node: Node) -> list[str]:
    name, unit = node.name, unit_name(node)
    lines = [
        f"Runs the {node.role} {name} of project {plan.project}, with systemd 252 or later.",
        "As root, in the folder of its kit:",
        "",
        f"    mkdir -p {_FOLDER}/{name} && cp -R startup local transfer {_FOLDER}/{name}/",
        f"    chown -R root: {_FOLDER}/{name} && chmod 700 {_FOLDER}/{name}",
        f"    cp {unit}.service /etc/systemd/system/ && systemctl daemon-reload && systemctl enable --now {unit}",
        "",
        f"A kit of which anything changed goes there again, then: systemctl restart {unit}",
        "What to change, if need be: the kit's place in LoadCredential=, and in PATH= where the command cellnet is.",
        f"The local/ and transfer/ that the node uses are in /var/lib/{unit}; what root puts there, such as",
        f"local/network.yml, is to be the node's: chown --reference=/var/lib/{unit}/local FILE.",
    ]
    if node.role != "relay":
        lines += [
            f"Jobs have their temporary files in /run/{unit}, which is memory: for large ones, give --run a folder",
            f"/var/lib/{unit}/run. For jobs that use a GPU, set PrivateDevices=no.",
        ]
    if node.role == "server":
        lines += [
            f"Commands to it, as root: cellnet submit {_FOLDER}/{name} BUNDLE --run /run/{unit}",
            f"Who was revoked it learns by a new denied.bin in {_FOLDER}/{name}/startup, and systemctl reload {unit}.",
        ]
    return lines


def _further_limits(node: Node) -> list[str]:
    lines = []
    if node.listen and (urlsplit(node.listen.url).port or 0) < 1024:
        # in a user namespace of its own, the capability would not hold for the machine's ports
        lines += ["CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "AmbientCapabilities=CAP_NET_BIND_SERVICE"]
    else:
        lines += ["CapabilityBoundingSet=", "PrivateUsers=yes"]
    if node.role == "relay":  # others run jobs, whose libraries compile at run time, and look at the machine
        lines += ["MemoryDenyWriteExecute=yes", "ProcSubset=pid"]
    return lines
