"""The guide in scripts/deploy: its files fit the schemas of those who read them, and its text fits the code."""

from __future__ import annotations

import importlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

import raykv
from raykv.cli import settings
from raykv.cli.main import cli
from raykv.config import GIB, KIB, MIB

DEPLOY = Path(__file__).parent.parent / "scripts" / "deploy"
GUIDE = (DEPLOY / "README.md").read_text()
MANIFESTS = [*yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())]
CLUSTER = yaml.safe_load((DEPLOY / "ray-up.yaml").read_text())
FIGURES = re.findall(r"^\| `(raykv\.[\w.]+)` \| ([^|]+) \|", GUIDE, re.MULTILINE)
UNITS = {"KiB": KIB, "MiB": MIB, "GiB": GIB}


# ---- the text ----


def said(text: str) -> float:
    number, _, unit = text.strip().partition(" ")
    return float(number) * UNITS.get(unit, 1)


def stands(name: str) -> float:
    """Return what the code has: a constant, or the default of a setting."""
    *module, last = name.split(".")
    if module[-1].endswith("Config"):
        config = getattr(importlib.import_module(".".join(module[:-1])), module[-1])
        (field,) = [field for field in msgspec.structs.fields(config) if field.name == last]
        return float(field.default)
    return float(getattr(importlib.import_module(".".join(module)), last))


@pytest.mark.parametrize(("name", "text"), FIGURES)
def test_a_figure_is_the_codes(name: str, text: str) -> None:
    assert said(text) == stands(name)


def test_figures_stand_in_the_tables_alone() -> None:
    assert len(FIGURES) > 12
    prose = "\n".join(line for line in GUIDE.splitlines() if not line.startswith("| `raykv."))
    measured = {"140 MB", "100 MB"}  # what a process takes: no limit of the code's
    found = set(re.findall(r"\d[\d,.]* ?(?:[KMGT]i?B|ms|s|minutes|hours|days|%)\b", prose))
    assert found == measured


@cache
def options_of(command: str) -> set[str]:
    return {option for each in cli.commands[command].params for option in each.opts}


def commands_in(text: str) -> list[list[str]]:
    lines = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:raykv) [^`]+)`", text)
    found = [match for line in [*"".join(lines).splitlines(), *inline] for match in re.findall(r"raykv [a-z].*", line)]
    return [shlex.split(line.replace("'", ""), comments=True)[1:] for line in found]


def test_every_command_and_option_is_there() -> None:
    named = commands_in(GUIDE)
    assert len(named) > 10
    for command, *words in named:
        assert command in cli.commands, command
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= options_of(command), (command, words)
    for option in re.findall(r"`(--[a-z-]+)(?: \w+)?`", GUIDE):
        assert any(option in options_of(command) for command in cli.commands), option
    for link in re.findall(r"\]\(([\w.-]+)\)", GUIDE):
        assert (DEPLOY / link).exists(), link


def test_every_setting_that_it_names_is_there() -> None:
    names = {
        *settings.StartSettings.__struct_fields__, *raykv.NodeConfig.__struct_fields__, *raykv.StoreConfig.__struct_fields__,
    }  # fmt: skip
    assert set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", GUIDE)) <= names


@pytest.mark.parametrize("where", ["store.toml", "kuberay.yaml"])
def test_the_settings_of_the_store_are_taken(where: str, tmp_path: Path) -> None:
    path = DEPLOY / where
    if where == "kuberay.yaml":
        (config_map,) = [each for each in MANIFESTS if each["kind"] == "ConfigMap"]
        path = tmp_path / "store.toml"
        path.write_text(config_map["data"]["store.toml"])
    chosen = settings.merged({}, settings.read_file(str(path)))
    assert chosen.path == "/data/raykv/shop"
    assert chosen.nodes == 3


# ---- ray up ----


def test_the_cluster_fits_rays_own_schema() -> None:
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = msgspec.json.decode((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_bytes())
    prepared = prepare_config(CLUSTER)
    jsonschema.validate(prepared, schema)
    validate_config(prepared)
    assert prepared["max_workers"] == len(CLUSTER["provider"]["worker_ips"])
    for wrong in ({"providers": {}}, {"auth": {"user": "x"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(prepared | wrong, schema)


def test_what_machines_run_is_what_ray_takes() -> None:
    from ray.scripts.scripts import start

    known = {option for each in start.params for option in each.opts}
    lines = [*CLUSTER["head_start_ray_commands"], *CLUSTER["worker_start_ray_commands"]]
    for line in lines:
        assert set(re.findall(r"(--[a-z-]+)", line)) <= known, line
    starts = [line for line in lines if "ray start" in line]
    assert len(starts) == 2
    assert all("ulimit -n 65536" in line and "RAY_AUTH_MODE=token" in line for line in starts)
    assert CLUSTER["min_workers"] == CLUSTER["max_workers"], "no idle time takes a storage machine away"


# ---- Kubernetes ----

STRING, WHOLE, LABELS = (
    {"type": "string"},
    {"type": "integer"},
    {"type": "object", "additionalProperties": {"type": "string"}},
)


def of(required: str = "", **properties: Any) -> dict[str, Any]:
    """Return the schema of an object: these fields and no others."""
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


def many(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?([KMGT]i|m)?$"}
METADATA = of("name", name={"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}, labels=LABELS)
AMOUNTS = of(cpu=QUANTITY, memory=QUANTITY, storage=QUANTITY)
SECRET_KEY = of("secretKeyRef", secretKeyRef=of("name key", name=STRING, key=STRING))
CLAIM = of("claimName", claimName=STRING)
CONTAINER = of(
    "name image resources volumeMounts", name=STRING, image=STRING,
    env=many(of("name", name=STRING, value=STRING, valueFrom=SECRET_KEY)),
    resources=of("requests limits", requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts=many(of("name mountPath", name=STRING, mountPath={"type": "string", "pattern": "^/"})),
)  # fmt: skip
TEMPLATE = of(
    "metadata spec", metadata=of("labels", labels=LABELS),
    spec=of(
        "containers volumes",
        securityContext=of(runAsUser=WHOLE, runAsGroup=WHOLE, fsGroup=WHOLE), terminationGracePeriodSeconds=WHOLE,
        nodeSelector=LABELS, containers=many(CONTAINER),
        volumes=many(of("name", name=STRING, persistentVolumeClaim=CLAIM, configMap=of("name", name=STRING))),
    ),
)  # fmt: skip
GROUP = {"rayStartParams": LABELS, "template": TEMPLATE}
SCHEMAS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "Secret"): of("metadata stringData", type=STRING, stringData=LABELS),
    ("v1", "ConfigMap"): of("metadata data", data=LABELS),
    ("v1", "PersistentVolumeClaim"): of(
        "metadata spec",
        spec=of(
            "accessModes resources", storageClassName=STRING, resources=of("requests", requests=AMOUNTS),
            accessModes=many({"enum": ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"]}),
        ),
    ),
    ("policy/v1", "PodDisruptionBudget"): of(
        "metadata spec",
        spec=of("selector", maxUnavailable=WHOLE, selector=of("matchLabels", matchLabels=LABELS)),
    ),
    ("ray.io/v1", "RayCluster"): of(
        "metadata spec",
        spec=of(
            "headGroupSpec workerGroupSpecs", rayVersion=STRING, headGroupSpec=of("rayStartParams template", **GROUP),
            workerGroupSpecs=many(
                of(
                    "groupName rayStartParams template", groupName=STRING, replicas=WHOLE, minReplicas=WHOLE,
                    maxReplicas=WHOLE, **GROUP,
                )
            ),
        ),
    ),
}  # fmt: skip
"""The fields that the manifest uses, as Kubernetes (1.29) and KubeRay (1.2 and later) name them, and no others."""


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_a_manifest_has_the_fields_of_its_kind(manifest: dict[str, Any]) -> None:
    schema = SCHEMAS[manifest["apiVersion"], manifest["kind"]]
    known = schema | {"properties": schema["properties"] | {"apiVersion": STRING, "kind": STRING, "metadata": METADATA}}
    jsonschema.validate(manifest, known)


def test_the_manifests_fit_each_other() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in MANIFESTS:
        by_kind.setdefault(each["kind"], []).append(each)
    claims = {each["metadata"]["name"] for each in by_kind["PersistentVolumeClaim"]}
    (cluster,), (budget,) = by_kind["RayCluster"], by_kind["PodDisruptionBudget"]
    (secret,), (config_map,) = by_kind["Secret"], by_kind["ConfigMap"]
    workers = cluster["spec"]["workerGroupSpecs"]
    used, hosts, zones = [], [], set()
    for group in (cluster["spec"]["headGroupSpec"], *workers):
        pod = group["template"]["spec"]
        names = {volume["name"] for volume in pod["volumes"]}
        used += [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "configMap" not in volume]
        labels = dict(pair.split("=") for pair in group["rayStartParams"]["labels"].split(","))
        hosts.append(labels["raykv-host"])
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == names
            secrets = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each]
            assert [(each["name"], each["key"]) for each in secrets] == [
                (secret["metadata"]["name"], *secret["stringData"])
            ]
        if group in workers:
            assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (1, 1, 1), "one pod a claim"
            assert labels["raykv-zone"] == pod["nodeSelector"]["topology.kubernetes.io/zone"]
            zones.add(labels["raykv-zone"])
            wanted = budget["spec"]["selector"]["matchLabels"].items()
            assert wanted <= group["template"]["metadata"]["labels"].items()
    assert sorted(used) == sorted(claims), "each claim is of one pod"
    assert len({*hosts}) == len(hosts) == 4
    assert len(zones) == len(workers) == 3
    volumes = [volume for group in workers for volume in group["template"]["spec"]["volumes"]]
    mapped = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert mapped == {config_map["metadata"]["name"]}
    assert budget["spec"]["maxUnavailable"] == 1
    containers = [each for group in workers for each in group["template"]["spec"]["containers"]]
    mounts = [mount["mountPath"] for each in containers for mount in each["volumeMounts"]]
    assert any("/data/raykv/shop".startswith(mount) for mount in mounts)


def test_labels_are_those_that_the_store_looks_for() -> None:
    from raykv.actors.hosts import HOST_LABEL, ZONE_LABELS

    assert (HOST_LABEL, ZONE_LABELS[0]) == ("raykv-host", "raykv-zone")
