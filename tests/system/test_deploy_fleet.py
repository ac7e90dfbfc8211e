"""The files for containers, clusters and many hosts, validated by the schemas of their tools."""

import argparse
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from edged.commands.install import command as install_command
from edged.config.load import load_config
from tests.paths import ROOT
from tests.requirements import require

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
# Of the clusters in use: the oldest and the newest that the schemas here know and k3s ships.
KUBERNETES = ["1.30", "1.34"]


def documents(folder: Path = DEPLOY / "k3s") -> list[dict[str, Any]]:
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in documents() if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return loaded


def check_compose(path: Path) -> subprocess.CompletedProcess[str]:
    require(find_spec("check_jsonschema"), "check-jsonschema is not installed (the extra `dev`)")
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_the_compose_file_is_valid(tmp_path: Path) -> None:
    assert check_compose(DEPLOY / "compose.yaml").returncode == 0
    wrong = tmp_path / "compose.yaml"
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    wrong.write_text(text.replace("pids_limit: 64", "pid_limits: 64"), "utf-8")
    assert "pid_limits" in check_compose(wrong).stdout


def test_in_compose_edged_is_sandboxed_and_its_configuration_is_valid() -> None:
    document = compose()
    service = document["services"]["edged"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["networks"] == ["inside"]
    assert document["networks"]["inside"]["internal"] is True
    assert "ports" not in service
    config = load_config(document["configs"]["edged"]["content"], "/etc/edged/edged.yaml")
    assert config.broker.host in document["services"]
    assert str(config.broker.password_file) == "/run/secrets/mqtt-password"
    limit = int(service["mem_limit"].removesuffix("m")) << 20
    assert config.budget.memory_bytes is not None
    assert config.budget.memory_bytes < limit
    for volume in (*service["volumes"], *document["services"]["broker"]["volumes"]):
        source = volume.split(":")[0]
        if source.startswith("./mosquitto/"):
            assert (DEPLOY / source).exists()


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid_for_the_cluster(version: str) -> None:
    require(find_spec("kubernetes_validate"), "kubernetes-validate is not installed (extra `dev`)")
    kubernetes_validate = import_module("kubernetes_validate")
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)
    wrong = manifest("DaemonSet", "edged")
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_in_the_cluster_edged_is_sandboxed_probed_limited_and_in_a_group() -> None:
    pod = manifest("DaemonSet", "edged")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    text = manifest("ConfigMap", "edged")["data"]["edged.yaml"]
    config = load_config(text, "/etc/edged/edged.yaml")
    assert config.broker.host == manifest("Service", "broker")["metadata"]["name"]
    assert config.group.name == "fleet"
    assert config.budget.memory_bytes is not None
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    assert config.budget.memory_bytes < limit
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for needed in (config.model.path, config.state.folder, config.state.file):
        assert any(str(needed).startswith(path) for path in mounted)


def test_in_the_cluster_edged_reaches_only_the_broker_and_dns() -> None:
    policy = manifest("NetworkPolicy", "edged")["spec"]
    labels = manifest("DaemonSet", "edged")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["ingress"] == []
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {1883, 53}


def test_the_playbook_is_valid_for_ansible() -> None:
    require((BIN / "ansible-playbook").exists(), "ansible-core is not installed (the extra `dev`)")
    folder = DEPLOY / "ansible"
    words = ["--syntax-check", "--inventory", str(folder / "inventory.yaml")]
    result = subprocess.run(
        [str(BIN / "ansible-playbook"), *words, str(folder / "playbook.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, "WARNING" in result.stderr) == (0, False), result.stderr


def test_the_playbook_uses_options_that_exist() -> None:
    text = (DEPLOY / "ansible" / "playbook.yaml").read_text("utf-8")
    used = set(re.findall(r"(?:^\s+- |')(--[a-z-]+)", text, re.MULTILINE))
    parser = argparse.ArgumentParser()
    install_command.add_arguments(parser)
    assert {"--model", "--node", "--broker", "--password-file"} <= used
    assert used <= {option for action in parser._actions for option in action.option_strings}
