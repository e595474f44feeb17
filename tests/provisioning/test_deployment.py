"""That the files to run nodes with are valid by public schemas, start real nodes, and hold nothing secret."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import ConfigurationError
from cellnet.jobs.assignment import GRACE_SECONDS
from cellnet.jobs.operator import SOCKET
from cellnet.kit import Kit
from cellnet.node import DRAIN_SECONDS, MAX_SOCKET_BYTES
from provisioning import Lock, provision, read_plan
from provisioning.compose import DOCKERFILE, IMAGE
from provisioning.deployment import deployment_files
from provisioning.kubernetes import dns_label
from provisioning.plan import draw
from provisioning.source import Source
from tests.conftest import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioning import Node, Plan

LOCK = Lock("key file", b"k" * 64)
SCHEMAS = Path(__file__).parent / "fixtures" / "schemas"
ROOT = Path(__file__).parents[2]
LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
KINDS = {"Deployment": "apps.v1", "Service": "core.v1", "PersistentVolumeClaim": "core.v1"}
LONG = "C" * 63

ODD = f"""\
api_version: 3
name: odd-
participants:
  - {{name: fl_1.acme.example, type: server, org: a, default_host: www.acme.example, fed_learn_port: 443}}
  - {{name: R_1, type: relay, org: a, connect_to: {{name: R2}},
     listening_host: {{default_host: '2001:db8::1', port: 8443, scheme: tcp}}}}
  - {{name: R2, type: relay, org: a, listening_host: {{default_host: r2.example, port: 22, connection_security: tls}}}}
  - {{name: {LONG}, type: client, org: a, connect_to: {{name: R_1}}}}
  - {{name: {LONG[1:]}_, type: client, org: a, connect_to: {{host: gate.example, port: 443}}}}
  - {{name: 0, type: client, org: a}}
  - {{name: a+b@acme.example, type: admin, org: a, role: lead}}
""".replace("name: 0,", "name: '0',")


def planned(text: str) -> Plan:
    return draw(Source.parse(text.encode(), "project.yml"))


def text(plan: Plan, node: Node, ending: str) -> str:
    files = deployment_files(plan, node)
    return next(content for name, content in files.items() if name.endswith(ending)).decode()


def service(plan: Plan, node: Node) -> dict[str, Any]:
    return yaml.safe_load(text(plan, node, "compose.yaml"))["services"][node.name]


def manifests(plan: Plan, node: Node) -> dict[str, dict[str, Any]]:
    """Return a node's objects by kind; the last one of each."""
    return {document["kind"]: document for document in yaml.safe_load_all(text(plan, node, "kubernetes.yaml"))}


def pod(plan: Plan, node: Node) -> dict[str, Any]:
    return manifests(plan, node)["Deployment"]["spec"]["template"]["spec"]


def settings(unit: str) -> dict[str, str]:
    """Return a unit's settings; of one that is repeated, the last."""
    lines = unit.replace("\\\n", "").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def cells(plan: Plan) -> list[Node]:
    return [node for node in plan.nodes if node.role != "admin"]


@pytest.fixture(scope="module")
def odd() -> Plan:
    return planned(ODD)


@pytest.fixture(scope="module", params=["odd", "guide"])
def any_plan(request: pytest.FixtureRequest, odd: Plan) -> Plan:
    return odd if request.param == "odd" else read_plan(request.path.parent / "fixtures" / "guide-project.yml")


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("kits")
    (folder / "project.yml").write_text(ODD)
    return provision(folder / "project.yml", folder / "out", LOCK).plan, folder / "out"


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder with a path that leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="c-") as folder:
        yield Path(folder)


def test_every_cell_has_four_files_and_an_admin_none(odd: Plan) -> None:
    names = {node.name: sorted(deployment_files(odd, node)) for node in odd.nodes}
    assert names.pop("a+b@acme.example") == []
    for name, files in names.items():
        assert files == ["Dockerfile", f"cellnet-{name}.service", "compose.yaml", "kubernetes.yaml"]


def test_nothing_secret_is_in_a_file_and_no_file_changes_by_itself(provisioned: tuple[Plan, Path]) -> None:
    plan, out = provisioned
    bodies = [line for key in out.rglob("*.key") for line in key.read_bytes().splitlines() if b"-----" not in line]
    assert len(bodies) > 10
    for node in plan.nodes:
        files = deployment_files(plan, node)
        assert files == deployment_files(planned(ODD), node)
        for content in files.values():
            assert b"PRIVATE" not in content
            assert not [body for body in bodies if body in content]


# Containers.


def test_compose_files_are_valid_by_the_public_schema(any_plan: Plan) -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    for node in cells(any_plan):
        document = yaml.safe_load(text(any_plan, node, "compose.yaml"))
        jsonschema.Draft7Validator(schema).validate(document)
        document["services"][node.name]["port"] = []
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft7Validator(schema).validate(document)


def test_a_container_has_a_kit_whose_startup_it_cannot_write_and_no_rights(odd: Plan) -> None:
    for node in cells(odd):
        found = service(odd, node)
        mounts = [(mount["source"], mount["target"], mount.get("read_only", False)) for mount in found["volumes"]]
        wanted = [("startup", True), ("local", False), ("transfer", False)]
        assert mounts == [(f"./{name}", f"/kit/{name}", read_only) for name, read_only in wanted]
        assert found["command"][:3] == ["cellnet", "start", "/kit"]
        assert Path(found["command"][4]).parent.as_posix() in found["tmpfs"], "the node makes the folder itself"
        assert found["read_only"]
        assert found["cap_drop"] == ["ALL"]
        assert found["security_opt"] == ["no-new-privileges:true"]
        assert found["restart"] == "on-failure"
        assert found["image"] == f"${{CELLNET_IMAGE:-{IMAGE}}}"


def test_ports_are_published_for_those_who_listen(odd: Plan) -> None:
    ports = {node.name: service(odd, node).get("ports") for node in cells(odd)}
    assert [ports[name] for name in ("fl_1.acme.example", "R_1", "R2")] == [["443:443"], ["8443:8443"], ["22:22"]]
    assert [ports[name] for name in (LONG, "0")] == [None, None]


def test_who_listens_or_connects_at_localhost_is_on_the_machines_network_and_in_no_service(guide: Path) -> None:
    plan = read_plan(guide)
    for node in cells(plan):
        found = service(plan, node)
        assert found["network_mode"] == "host"
        assert "ports" not in found
        assert "Service" not in manifests(plan, node)
        assert "readinessProbe" not in pod(plan, node)["containers"][0]
        assert "localhost" in text(plan, node, "kubernetes.yaml").partition("apiVersion")[0]


def test_the_image_is_of_this_version_with_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = re.search(r'"(\S+)\[(\S+)\]==(\S+)"', DOCKERFILE)
    assert wanted is not None
    assert (wanted[1], wanted[3]) == (project["name"], project["version"])
    assert set(wanted[2].split(",")) <= set(project["optional-dependencies"])
    assert f"cellnet:{project['version']}" == IMAGE
    assert "COPY" not in DOCKERFILE, "no key gets into an image"


# Clusters.


def test_manifests_are_valid_by_the_public_schemas(any_plan: Plan) -> None:
    schema = json.loads((SCHEMAS / "kubernetes-1.34.json").read_text())
    for node in cells(any_plan):
        documents = list(yaml.safe_load_all(text(any_plan, node, "kubernetes.yaml")))
        kinds = [document["kind"] for document in documents]
        assert set(kinds) <= set(KINDS), "neither a Secret, nor a ConfigMap with what is one"
        assert kinds.count("Deployment") == 1
        for document in documents:
            definition = f"io.k8s.api.{KINDS[document['kind']]}.{document['kind']}"
            validator = jsonschema.Draft7Validator({**schema, "$ref": f"#/$defs/{definition}"})
            validator.validate(document)
            document["spec"]["replica"] = 1
            with pytest.raises(jsonschema.ValidationError):
                validator.validate(document)


def test_a_pod_has_no_rights_and_lets_its_node_end(odd: Plan) -> None:
    for node in cells(odd):
        found = pod(odd, node)
        assert manifests(odd, node)["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
        assert found["automountServiceAccountToken"] is False
        assert found["securityContext"]["runAsNonRoot"]
        assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*found["initContainers"], *found["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            known = {volume["name"] for volume in found["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= known


def test_the_selector_finds_the_pod_and_the_service_finds_its_port(odd: Plan) -> None:
    for node in cells(odd):
        objects = manifests(odd, node)
        template = objects["Deployment"]["spec"]["template"]
        wanted = objects["Deployment"]["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= template["metadata"]["labels"].items()
        container = template["spec"]["containers"][0]
        assert ("Service" in objects) == (node.listen is not None)
        if node.listen:
            port = int(node.listen.url.rpartition(":")[2])
            assert objects["Service"]["spec"]["selector"] == wanted
            assert objects["Service"]["spec"]["ports"] == [{"name": "links", "port": port, "targetPort": "links"}]
            assert container["ports"] == [{"name": "links", "containerPort": port}]
            assert container["readinessProbe"]["tcpSocket"] == {"port": "links"}


def test_what_a_mounted_secret_holds_becomes_a_kit(provisioned: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, out = provisioned
    for node in cells(plan):
        secret, memory, kit = (tmp_path / node.name / name for name in ("secret", "memory", "kit"))
        for folder in (secret / "..2026_11_29", memory, kit / "local", kit / "transfer"):
            folder.mkdir(parents=True)
        memory.chmod(0o777)  # as the volume is
        (secret / "..data").symlink_to("..2026_11_29")
        for file in (out / node.name / "startup").iterdir():
            assert re.fullmatch(r"[-._a-zA-Z0-9]+", file.name), "a key of a Secret"
            shutil.copyfile(file, secret / "..data" / file.name)
            (secret / file.name).symlink_to(f"..data/{file.name}")
        (kit / "startup").symlink_to(secret)
        with pytest.raises(ConfigurationError):
            Kit.load(kit)
        *shell, script = pod(plan, node)["initContainers"][0]["command"]
        script = script.replace("/secret", str(secret)).replace("/memory", str(memory))
        for _ in range(2):  # a pod's may run again
            subprocess.run([*shell, script], check=True)
        (kit / "startup").unlink()
        (kit / "startup").symlink_to(memory / "startup")
        assert Kit.load(kit).name == node.base_name


names = st.from_regex(r"[A-Za-z0-9][A-Ba-b0_.-]{0,62}", fullmatch=True)


@given(st.lists(names, unique_by=str.casefold))
def test_names_in_a_cluster_are_labels_and_never_the_same(names: list[str]) -> None:
    labels = [dns_label(name) for name in names]
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert LABEL.fullmatch(label)
        assert len(f"{label}-transfer") <= 63


def test_a_name_that_looks_like_anothers_label_has_one_of_its_own() -> None:
    label = dns_label("a_b")
    assert dns_label(label.removeprefix("cellnet-")) != label
    assert dns_label("R1") == "cellnet-r1"


# systemd.


def test_a_unit_and_its_folders_are_named_for_the_node(odd: Plan) -> None:
    for node in cells(odd):
        found = settings(text(odd, node, ".service"))
        assert found["LoadCredential"] == f"startup:/etc/cellnet/{node.name}/startup"
        assert found["RuntimeDirectory"] == found["StateDirectory"] == f"cellnet-{node.name}"
    longest = f"/run/cellnet-{'s' * 64}/{SOCKET}"
    assert len(longest) <= MAX_SOCKET_BYTES


def test_a_node_may_take_longer_to_end_than_it_ever_does(odd: Plan) -> None:
    longest = DRAIN_SECONDS + 2 * GRACE_SECONDS
    for node in cells(odd):
        assert int(settings(text(odd, node, ".service"))["TimeoutStopSec"]) > longest
        assert int(service(odd, node)["stop_grace_period"].removesuffix("s")) > longest
        assert pod(odd, node)["terminationGracePeriodSeconds"] > longest


def test_only_who_listens_at_a_low_port_may_bind_one(odd: Plan) -> None:
    for node in cells(odd):
        low = node.name in ("fl_1.acme.example", "R2")
        unit = settings(text(odd, node, ".service"))
        assert unit["CapabilityBoundingSet"] == ("CAP_NET_BIND_SERVICE" if low else "")
        assert ("AmbientCapabilities" in unit) == low
        assert ("PrivateUsers" in unit) != low
        assert ("sysctls" in service(odd, node)) == low
        assert ("sysctls" in pod(odd, node)["securityContext"]) == low


def test_systemd_finds_no_fault_in_a_unit_and_little_that_it_could_do(any_plan: Plan, tmp_path: Path) -> None:
    if not (tool := shutil.which("systemd-analyze")):
        pytest.skip("systemd-analyze is not installed")
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    if int(re.split(r"\D", version)[0]) < 252:
        pytest.skip(f"systemd is {version}, units want 252")
    units = []
    for node in cells(any_plan):
        units.append(tmp_path / f"cellnet-{node.name}.service")
        units[-1].write_text(text(any_plan, node, ".service"))
    done = subprocess.run([tool, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    secure = [tool, "--no-pager", "security", "--offline=true", "--threshold=18", *units]
    done = subprocess.run(secure, capture_output=True, text=True, check=False)
    assert done.returncode == 0, re.findall(r"→.*", done.stdout)


class Unit:
    """A unit whose commands run as ordinary processes, with systemd's folders below one of the test's."""

    def __init__(self, plan: Plan, node: Node, out: Path, folder: Path) -> None:
        self.settings = settings(text(plan, node, ".service"))
        self.kit = folder / "t" / self.settings["RuntimeDirectory"] / "kit"
        self._folder = folder
        for name in (f"t/{self.settings['RuntimeDirectory']}", f"S/{self.settings['StateDirectory']}", "d"):
            (folder / name).mkdir(mode=0o700, parents=True)
        for file in (out / node.name / "startup").iterdir():
            copy = folder / "d" / f"{self.settings['LoadCredential'].partition(':')[0]}_{file.name}"
            shutil.copyfile(file, copy)
            copy.chmod(0o440)  # as where systemd's files have access lists

    def command(self, key: str) -> list[str]:
        """Return what systemd would run, without its privileges."""
        line = re.sub("%([tSd])", lambda found: f"{self._folder}/{found[1]}", self.settings[key].removeprefix("+"))
        assert "$" not in line.replace("$$", ""), "systemd would take it for a variable of its own"
        return [word.replace("$$", "$") for word in shlex.split(line)]

    @property
    def start(self) -> dict[str, Any]:
        """Return how its processes start."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"env": {"PATH": path}, "umask": int(self.settings["UMask"], 8), "cwd": "/"}


def test_a_unit_makes_a_kit_of_its_credentials_and_does_so_again(
    provisioned: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, out = provisioned
    for node in cells(plan):
        unit = Unit(plan, node, out, tmp_path / node.name)
        for _ in range(2):
            subprocess.run(unit.command("ExecStartPre"), check=True, **unit.start)
            kit = Kit.load(unit.kit)
            assert kit.name == node.base_name
            kit.local.joinpath("epoch").write_text("1")
            assert (tmp_path / node.name / "S" / f"cellnet-{node.name}" / "local" / "epoch").is_file()
            assert kit.transfer.is_dir()


def test_a_server_takes_another_list_of_the_revoked_without_a_restart(
    provisioned: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, out = provisioned
    reloads = {node.name: "ExecReload" in settings(text(plan, node, ".service")) for node in cells(plan)}
    assert [name for name, reload in reloads.items() if reload] == ["fl_1.acme.example"]
    unit = Unit(plan, plan.nodes[0], out, tmp_path / "unit")
    subprocess.run(unit.command("ExecStartPre"), check=True, **unit.start)
    (tmp_path / "etc" / "startup").mkdir(parents=True)
    (tmp_path / "etc" / "startup" / "denied.bin").write_bytes(b"new")
    reload = [word.replace("/etc/cellnet/fl_1.acme.example", f"{tmp_path}/etc") for word in unit.command("ExecReload")]
    subprocess.run(reload, check=True, **unit.start)
    assert (unit.kit / "startup" / "denied.bin").read_bytes() == b"new"


def test_a_units_command_starts_a_node_and_its_signal_ends_it(tmp_path: Path, short: Path) -> None:
    project = "api_version: 3\nname: lab\nparticipants:\n"
    project += "  - {name: s.example, type: server, org: a, default_host: localhost, fed_learn_port: 1}\n"
    (tmp_path / "project.yml").write_text(project.replace("port: 1", f"port: {free_ports(1)[0]}"))
    plan = provision(tmp_path / "project.yml", tmp_path / "out", LOCK).plan
    unit = Unit(plan, plan.nodes[0], tmp_path / "out", short)
    subprocess.run(unit.command("ExecStartPre"), check=True, **unit.start)
    with subprocess.Popen(unit.command("ExecStart"), stdout=subprocess.PIPE, text=True, **unit.start) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("server listens at ")
            assert (unit.kit.parent / SOCKET).is_socket()
            process.send_signal(getattr(signal, unit.settings["KillSignal"]))
            assert process.wait(int(unit.settings["TimeoutStopSec"])) == 0
        finally:
            process.kill()
