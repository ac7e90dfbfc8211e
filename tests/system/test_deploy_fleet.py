"""The files for containers, clusters and many hosts, validated by the schemas of their tools."""

import argparse
import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from edged.commands.install import command as install_command
from edged.config.broker_url import parse_broker_url
from edged.config.load import load_config
from tests.paths import ROOT
from tests.requirements import require
from tests.system.access_table import (
    CLIENTS,
    NODES,
    TOPICS,
    WITH_SLASHES,
    WITH_WILDCARDS,
    readable,
    writable,
)
from tests.system.emqx_rules import Rights, Rule, read_rules

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
# Of the clusters in use: the oldest and the newest that the schemas here know and k3s ships.
KUBERNETES = ["1.30", "1.34"]


# What a kubelet keeps of a container's log by default: 5 files of 10 MiB.
LOG_MIB = 50


def mebibytes(quantity: str) -> int:
    """Read a size of a manifest."""
    assert quantity.endswith("Mi")
    return int(quantity.removesuffix("Mi"))


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
    assert config.security.identity == "required"
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
    assert (config.group.name, config.security.identity) == ("fleet", "required")
    assert config.budget.memory_bytes is not None
    limit = mebibytes(container["resources"]["limits"]["memory"]) << 20
    assert config.budget.memory_bytes < limit
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for needed in (config.model.path, config.state.folder, config.state.file):
        assert any(str(needed).startswith(path) for path in mounted)


def test_in_the_cluster_the_state_folder_fits_into_what_the_pod_may_store() -> None:
    """That the copy of the model fits into it: ``tests/system/model/test_deploy_state.py``."""
    pod = manifest("DaemonSet", "edged")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = load_config(manifest("ConfigMap", "edged")["data"]["edged.yaml"], "edged.yaml")
    paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (state,) = [volume for volume in pod["volumes"] if volume["name"] == "state"]
    assert paths["state"] == str(config.state.folder)
    limits = container["resources"]["limits"]
    assert "medium" not in state["emptyDir"]
    room = mebibytes(limits["ephemeral-storage"]) - mebibytes(state["emptyDir"]["sizeLimit"])
    assert room > LOG_MIB
    requests = container["resources"]["requests"]
    assert requests["ephemeral-storage"] == limits["ephemeral-storage"]


def test_in_the_cluster_edged_reaches_only_the_broker_and_dns() -> None:
    policy = manifest("NetworkPolicy", "edged")["spec"]
    labels = manifest("DaemonSet", "edged")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["ingress"] == []
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {1883, 53}


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    """What the broker of the cluster allows."""
    return read_rules(manifest("ConfigMap", "broker")["data"]["acl.conf"])


def subscriptions_to(topic: str) -> Iterator[str]:
    """Every subscription that brings a topic."""
    levels = topic.split("/")
    for number in range(len(levels) + 1):
        for begin in product(*((level, "+") for level in levels[:number])):
            yield "/".join(begin if number == len(levels) else [*begin, "#"])
    yield f"{topic}/#"


SUBSCRIPTIONS = {topic: set(subscriptions_to(topic)) for topic in TOPICS}


def written_and_read(rules: list[Rule], user: str) -> tuple[set[str], set[str]]:
    """Return to which topics an account may publish, and which it gets by any subscription."""
    rights = Rights(rules, user)
    every = set().union(*SUBSCRIPTIONS.values())
    granted = {each for each in every if rights.has("subscribe", each)}
    written = {topic for topic in TOPICS if rights.has("publish", topic)}
    return written, {topic for topic in TOPICS if SUBSCRIPTIONS[topic] & granted}


def test_in_the_cluster_each_account_publishes_and_reads_exactly_its_topics(
    rules: list[Rule],
) -> None:
    used = {topic for user in CLIENTS for topic in writable(user, NODES)}
    for user in CLIENTS:
        written, read = written_and_read(rules, user)
        assert written ^ writable(user, NODES) == set(), user
        # Below a `+` at its end, a rule lets an account ask for topics that nobody publishes to.
        assert (read & used) ^ (readable(user, NODES) & used) == set(), user


@pytest.mark.parametrize("user", [*WITH_WILDCARDS, *WITH_SLASHES, "#", ""])
def test_in_the_cluster_an_account_with_another_kind_of_name_has_no_rights(
    rules: list[Rule], user: str
) -> None:
    assert written_and_read(rules, user) == (set(), set())


def test_without_the_rule_about_names_one_account_would_read_every_answer(
    rules: list[Rule],
) -> None:
    _, read = written_and_read(rules[1:], "+")
    assert "edged/kitchen/client/ha/response/generate" in read


@pytest.mark.parametrize(
    "text",
    [
        "{allow, all}.",
        '{allow, all, publish, ["a"]}',
        '{allow, {clientid, "a"}, all, ["a"]}.',
        '{allow, all, write, ["a"]}.',
        '{allow, all, all, ["a"}.',
        "allow.",
        "{allow, All, all, []}.",
    ],
)
def test_the_reader_of_the_rules_takes_no_rule_that_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        read_rules(text)


def test_in_the_cluster_the_broker_has_accounts_and_rules_and_denies_the_rest() -> None:
    pod = manifest("StatefulSet", "broker")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = {item["name"]: item["value"] for item in container["env"]}
    mounted = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
    volumes = {item["name"]: item for item in pod["volumes"]}
    source = "EMQX_AUTHORIZATION__SOURCES__1__"
    assert settings["EMQX_AUTHORIZATION__NO_MATCH"] == "deny"
    assert (settings[f"{source}TYPE"], settings[f"{source}ENABLE"]) == ("file", "true")
    rules_path = Path(settings[f"{source}PATH"])
    config_map = volumes[mounted[str(rules_path.parent)]]["configMap"]["name"]
    assert rules_path.name in manifest("ConfigMap", config_map)["data"]
    accounts = Path(settings["EMQX_AUTHENTICATION__1__BOOTSTRAP_FILE"])
    assert "secret" in volumes[mounted[str(accounts.parent)]]
    comment = (DEPLOY / "k3s" / "broker.yaml").read_text("utf-8")
    assert f"--from-file={accounts.name}" in comment
    (command,) = re.findall(rf"(?m)^# +(printf .*) > {accounts.name}$", comment)
    made = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True)
    known = {
        row["user_id"]: row["is_superuser"] for row in csv.DictReader(made.stdout.splitlines())
    }
    assert known == {"edged": "false", "ha": "false"}
    policy = manifest("NetworkPolicy", "broker")["spec"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": 1883}]}]


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


def test_the_inventory_gives_the_nodes_an_account_so_that_they_require_one() -> None:
    inventory = yaml.safe_load((DEPLOY / "ansible" / "inventory.yaml").read_text("utf-8"))
    address = parse_broker_url(inventory["edged"]["vars"]["edged_broker"])
    assert address.username == "edged"  # `edged install` then writes `identity: required`


def test_the_playbook_uses_options_that_exist() -> None:
    text = (DEPLOY / "ansible" / "playbook.yaml").read_text("utf-8")
    used = set(re.findall(r"(?:^\s+- |')(--[a-z-]+)", text, re.MULTILINE))
    parser = argparse.ArgumentParser()
    install_command.add_arguments(parser)
    assert {"--model", "--node", "--broker", "--password-file"} <= used
    assert used <= {option for action in parser._actions for option in action.option_strings}
