"""The manifests under k8s/: each by its kind's schema, and what is promised about the pods."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # no stubs among our pins
import kubernetes_validate
import pytest
import yaml

from extauthz.cli.main import COMMANDS
from extauthz.envoy_config.check import check_text
from extauthz.envoy_config.render import render
from extauthz.gateway.load import load
from extauthz.services.health import LIVENESS, READINESS
from extauthz.settings import parse_listen, read_serving, worker_listens

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
SCHEMAS = Path(__file__).parent / "schemas"
#: The oldest with the sleep action and native sidecars on by default, and the newest that the validator knows.
VERSIONS = ("1.30", "1.37")

Manifest = dict[str, Any]


def manifests(*folders: Path) -> Iterator[tuple[str, Manifest]]:
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text()):
                yield f"{path.name}:{manifest['kind']}/{manifest['metadata']['name']}", manifest


CORE = dict(manifests(K8S))
FOREIGN = dict(manifests(K8S / "examples"))
DEPLOYMENTS = [manifest for manifest in CORE.values() if manifest["kind"] == "Deployment"]


def judge(manifest: Manifest) -> None:
    """Raises jsonschema.ValidationError."""
    if manifest["apiVersion"].partition("/")[0] in ("v1", "apps", "policy", "networking.k8s.io"):
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
        return
    schema = yaml.safe_load((SCHEMAS / f"{manifest['kind']}.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(manifest)


@pytest.mark.parametrize("name", [*CORE, *FOREIGN])
def test_each_manifest_keeps_its_schema(name: str) -> None:
    judge({**CORE, **FOREIGN}[name])


@pytest.mark.parametrize("name", [*CORE, *FOREIGN])
def test_a_misspelt_field_of_each_manifest_is_seen(name: str) -> None:
    manifest = deepcopy({**CORE, **FOREIGN}[name])
    body = next((manifest[field] for field in ("spec", "metadata") if field in manifest), manifest)
    key = next(iter(body))
    body[f"{key}Misspelt"] = body.pop(key)
    with pytest.raises(jsonschema.ValidationError):
        judge(manifest)


def containers(manifest: Manifest) -> list[Manifest]:
    pod = manifest["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def unsafe(manifest: Manifest) -> list[str]:
    """What of the pod's promises a deployment breaks."""
    pod = manifest["spec"]["template"]["spec"]
    said = pod.get("securityContext", {})
    found = [
        text
        for holds, text in (
            (pod.get("automountServiceAccountToken") is False, "mounts a service account token"),
            (said.get("runAsNonRoot") is True and said.get("runAsUser", 0) > 0, "may run as root"),
            (said.get("seccompProfile") == {"type": "RuntimeDefault"}, "has no seccomp profile"),
            (pod.get("enableServiceLinks") is False, "gets EXTAUTHZ_* variables of a Service"),
            (not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")), "shares the host's namespaces"),
        )
        if not holds
    ]
    for container in containers(manifest):
        context = container.get("securityContext", {})
        found += [
            f"{container['name']} {text}"
            for holds, text in (
                (context.get("readOnlyRootFilesystem") is True, "may write its root"),
                (context.get("allowPrivilegeEscalation") is False, "may gain privileges"),
                (context.get("capabilities") == {"drop": ["ALL"]}, "keeps capabilities"),
                (not context.get("privileged"), "is privileged"),
                ("memory" in container.get("resources", {}).get("limits", {}), "has no memory limit"),
                (":" in container["image"] and not container["image"].endswith(":latest"), "has no pinned image"),
                ("." not in container["image"].partition("/")[0] or "/" not in container["image"], "names a registry's host"),
            )
            if not holds
        ]
    return found


@pytest.mark.parametrize("manifest", DEPLOYMENTS, ids=lambda manifest: manifest["metadata"]["name"])
def test_pods_have_no_more_rights_than_they_need(manifest: Manifest) -> None:
    assert unsafe(manifest) == []


@pytest.mark.parametrize(
    ("where", "value", "seen"),
    [
        (("automountServiceAccountToken",), True, "mounts a service account token"),
        (("securityContext", "runAsNonRoot"), False, "may run as root"),
        (("securityContext", "runAsUser"), 0, "may run as root"),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}, "has no seccomp profile"),
        (("enableServiceLinks",), True, "gets EXTAUTHZ_* variables of a Service"),
        (("hostNetwork",), True, "shares the host's namespaces"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "extauthz may write its root"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "extauthz may gain privileges"),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}, "extauthz keeps capabilities"),
        (("containers", 0, "securityContext", "privileged"), True, "extauthz is privileged"),
        (("containers", 0, "resources"), {}, "extauthz has no memory limit"),
        (("containers", 0, "image"), "extauthz:latest", "extauthz has no pinned image"),
        (("containers", 0, "image"), "registry.example/extauthz:0.1.0", "extauthz names a registry's host"),
    ],
)
def test_each_broken_promise_of_a_pod_is_seen(where: tuple[str | int, ...], value: object, seen: str) -> None:
    broken = deepcopy(CORE["authorization.yaml:Deployment/authorization"])
    place: Any = broken["spec"]["template"]["spec"]
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    assert unsafe(broken) == [seen]


def test_the_sidecar_is_native_starts_before_envoy_and_shares_only_a_socket_in_memory() -> None:
    pod = CORE["deployment.yaml:Deployment/gateway"]["spec"]["template"]["spec"]
    sidecar = next(each for each in pod["initContainers"] if each["name"] == "extauthz")
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["grpc"]["port"] == 9101
    mounted = [{each["name"] for each in container["volumeMounts"]} for container in (sidecar, *pod["containers"])]
    assert mounted[0] & mounted[1] == {"sockets"}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["sockets"]["emptyDir"]["medium"] == "Memory"
    # `other` may not read the master key: the keyring refuses such a file.
    assert volumes["secret"]["secret"]["defaultMode"] & 0o007 == 0


@pytest.mark.parametrize("manifest", DEPLOYMENTS, ids=lambda manifest: manifest["metadata"]["name"])
def test_probes_ask_names_that_are_served_and_liveness_does_not_depend_on_redis(manifest: Manifest) -> None:
    (sidecar,) = [each for each in containers(manifest) if each["name"] == "extauthz"]
    asked = {name: sidecar[f"{name}Probe"]["grpc"]["service"] for name in ("startup", "readiness", "liveness")}
    assert asked["liveness"] == LIVENESS
    assert {asked["startup"], asked["readiness"]} <= set(READINESS)


@pytest.mark.parametrize("manifest", DEPLOYMENTS, ids=lambda manifest: manifest["metadata"]["name"])
def test_the_grace_period_outlasts_the_pause_before_the_end_and_the_drain(manifest: Manifest) -> None:
    pauses = [each.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for each in containers(manifest)]
    drain = read_serving({"EXTAUTHZ_REDIS_URL": "redis://x", "EXTAUTHZ_MASTER_KEY_FILE": __file__}).drain_s
    assert max(pauses) > 0
    assert manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > max(pauses) + drain


@pytest.mark.parametrize("manifest", DEPLOYMENTS, ids=lambda manifest: manifest["metadata"]["name"])
def test_the_arguments_are_such_as_the_command_takes(manifest: Manifest) -> None:
    (sidecar,) = [each for each in containers(manifest) if each["name"] == "extauthz"]
    command, *flags = sidecar["args"]
    given = dict(flag.split("=", 1) for flag in flags)
    assert command in COMMANDS
    assert set(given) <= {"--config", "--listen", "--workers", "--health", "--metrics", "--transport"}
    for name in ("--listen", "--health", "--metrics"):
        assert str(parse_listen(given[name], name)) == given[name]


def test_the_gateway_file_loads_and_what_is_rendered_from_it_is_safe(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(CORE["configmap.yaml:ConfigMap/gateway"]["data"]["gateway.yaml"])
    gateway = load(file)
    listens = [own for mine in worker_listens([parse_listen("unix:/run/extauthz/extauthz.sock")], 2) for own in mine]
    assert check_text(render(gateway, listens), "envoy.yaml") == []
    assert gateway.listener.port == 10000


def test_services_select_pods_that_exist_and_the_grpc_port_says_its_protocol() -> None:
    pods = [manifest["spec"]["template"] for manifest in DEPLOYMENTS]
    for service in (manifest for manifest in CORE.values() if manifest["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        ports = {
            port["name"]
            for pod in pods
            if wanted <= pod["metadata"]["labels"].items()
            for container in containers({"spec": {"template": pod}})
            for port in container.get("ports", [])
        }
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, service["metadata"]["name"]
    (grpc,) = CORE["authorization.yaml:Service/authorization"]["spec"]["ports"]
    assert grpc["appProtocol"] == "kubernetes.io/h2c"


def test_the_examples_name_the_service_that_exists_and_fail_closed_with_a_timeout() -> None:
    service = CORE["authorization.yaml:Service/authorization"]
    port = service["spec"]["ports"][0]["port"]
    policy = FOREIGN["envoy-gateway.yaml:SecurityPolicy/extauthz"]["spec"]["extAuth"]
    (backend,) = policy["grpc"]["backendRefs"]
    istio = FOREIGN["istio.yaml:IstioOperator/extauthz"]["spec"]["meshConfig"]["extensionProviders"][0]["envoyExtAuthzGrpc"]
    (route,) = FOREIGN["gateway-api.yaml:HTTPRoute/openai"]["spec"]["rules"]
    external = next(each["externalAuth"] for each in route["filters"] if each["type"] == "ExternalAuth")
    names = [(backend["name"], backend["namespace"], backend["port"])]
    names += [(external["backendRef"]["name"], external["backendRef"]["namespace"], external["backendRef"]["port"])]
    names += [(*istio["service"].split(".")[:2], istio["port"])]
    assert names == [("authorization", "extauthz", port)] * 3
    assert (policy["failOpen"], policy["timeout"], istio["failOpen"], istio["timeout"]) == (False, "500ms", False, "0.5s")
    assert istio["statusOnError"] == "503"


def test_no_secret_is_in_the_manifests() -> None:
    for name, manifest in {**CORE, **FOREIGN}.items():
        if manifest["kind"] == "Secret":
            assert all("REPLACE" in value for value in manifest["stringData"].values()), name
            assert "data" not in manifest
