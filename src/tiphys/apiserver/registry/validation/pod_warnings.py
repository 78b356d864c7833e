"""Warnings for pod specs: valid, but probably not what was meant, or deprecated.

https://kubernetes.io/blog/2020/09/03/warnings/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tiphys.apiserver.registry.validation.path_warnings import overlap_warnings
from tiphys.machinery.field import Path, quote
from tiphys.machinery.formats import dns1123_label, dns1123_subdomain, label_value, parse_ip_sloppy
from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]

DEPRECATED_NODE_LABELS: Final = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
}
DEPRECATED_ANNOTATIONS: Final = {
    "seccomp.security.alpha.kubernetes.io/pod": 'non-functional in v1.27+; use the "seccompProfile" field instead',
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
}
REMOVED_VOLUMES: Final = {
    "gitRepo": "deprecated in v1.11",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
}


def name_warnings(metadata: Json, used_in: str = "Pod names and hostnames") -> list[str]:
    """Of a name that will be a hostname but is no DNS label; one that is no name at all is an error anyway."""
    name = metadata.get("name") or ""
    problems = ", ".join(dns1123_label(name))
    if not name or not problems or dns1123_subdomain(name):
        return []
    advice = f"a DNS label is recommended: [{problems}]"
    return [f"metadata.name: this is used in {used_in}, which can result in surprising behavior; {advice}"]


def node_selector_warnings(selector: Mapping[str, str] | None, path: Path, *, keyed: bool = True) -> list[str]:
    """Node labels that have new names."""
    found = sorted(key for key in selector or () if key in DEPRECATED_NODE_LABELS)
    return [f"{path.key(key) if keyed else path}: {DEPRECATED_NODE_LABELS[key]}" for key in found]


def pod_warnings(spec: Json, metadata: Json, path: Path, meta_path: Path) -> list[str]:
    """Warnings of a pod or of a pod template."""
    warnings = node_selector_warnings(spec.get("nodeSelector"), path.child("nodeSelector"))
    warnings += _affinity_warnings(spec, path)
    warnings += annotation_warnings(metadata.get("annotations") or {}, meta_path)
    warnings += _spread_warnings(spec, path)
    warnings += _host_alias_warnings(spec, path)
    warnings += _volume_warnings(spec, path)
    warnings += _pull_secret_warnings(spec, path.child("imagePullSecrets"))
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or ()):
            warnings += _container_warnings(container, path.child(kind).index(index))
    overhead = spec.get("overhead") or {}
    warnings += _fraction_warnings(overhead, path.child("overhead"))
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        warnings.append(
            f"{path.child('terminationGracePeriodSeconds')}: must be >= 0; "
            "negative values are invalid and will be treated as 1"
        )
    warnings += _dns_warnings(spec, path)
    return warnings + _port_warnings(spec, path)


def _pull_secret_warnings(spec: Json, path: Path) -> list[str]:
    names = [secret.get("name") or "" for secret in spec.get("imagePullSecrets") or ()]
    warnings = [
        f"{path.index(index).child('name')}: duplicate name {quote(name)}"
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    empty = [index for index, name in enumerate(names) if not name]
    return warnings + [f'{path.index(index).child("name")}: invalid empty name ""' for index in empty]


def annotation_warnings(annotations: Mapping[str, str], meta_path: Path) -> list[str]:
    """Annotations that were replaced by fields."""
    return [
        f"{meta_path.child('annotations').key(key)}: {text}"
        for key, text in DEPRECATED_ANNOTATIONS.items()
        if key in annotations
    ]


def _affinity_warnings(spec: Json, path: Path) -> list[str]:
    node = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    base = path.child("affinity", "nodeAffinity")
    warnings: list[str] = []
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate((node.get(required) or {}).get("nodeSelectorTerms") or ()):
        warnings += _term_warnings(term, base.child(required, "nodeSelectorTerms").index(index))
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    for index, one in enumerate(node.get(preferred) or ()):
        where = base.child(preferred).index(index).child("preference")
        warnings += _term_warnings(one.get("preference") or {}, where)
        warnings += _value_warnings(one.get("preference") or {}, where)
    for kind in ("podAffinity", "podAntiAffinity"):
        warnings += _pod_affinity_warnings((spec.get("affinity") or {}).get(kind) or {}, path.child("affinity", kind))
    return warnings


def _value_warnings(term: Json, path: Path) -> list[str]:
    """Values of preferences that no label can have."""
    warnings: list[str] = []
    for index, expression in enumerate(term.get("matchExpressions") or ()):
        for number, value in enumerate(expression.get("values") or ()):
            where = path.child("matchExpressions").index(index).child("values").index(number)
            warnings += [f"{where}: {value} is invalid, {message}" for message in label_value(value)]
    return warnings


def _pod_affinity_warnings(affinity: Json, path: Path) -> list[str]:
    detail = "a null labelSelector results in matching no pod"
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    terms = [(path.child(required).index(i), term) for i, term in enumerate(affinity.get(required) or ())]
    terms += [
        (path.child(preferred).index(index).child("podAffinityTerm"), one.get("podAffinityTerm") or {})
        for index, one in enumerate(affinity.get(preferred) or ())
    ]
    return [f"{where.child('labelSelector')}: {detail}" for where, term in terms if term.get("labelSelector") is None]


def _term_warnings(term: Json, path: Path) -> list[str]:
    return [
        f"{path.child('matchExpressions').index(index).child('key')}: {DEPRECATED_NODE_LABELS[one['key']]}"
        for index, one in enumerate(term.get("matchExpressions") or ())
        if one.get("key") in DEPRECATED_NODE_LABELS
    ]


def _spread_warnings(spec: Json, path: Path) -> list[str]:
    warnings: list[str] = []
    for index, one in enumerate(spec.get("topologySpreadConstraints") or ()):
        where = path.child("topologySpreadConstraints").index(index)
        if one.get("topologyKey") in DEPRECATED_NODE_LABELS:
            warnings.append(f"{where.child('topologyKey')}: {DEPRECATED_NODE_LABELS[one['topologyKey']]}")
        if one.get("labelSelector") is None:
            warnings.append(f"{where.child('labelSelector')}: a null labelSelector results in matching no pod")
    return warnings


def _host_alias_warnings(spec: Json, path: Path) -> list[str]:
    warnings: list[str] = []
    seen: dict[str, int] = {}
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        address = alias.get("ip") or ""
        if address in seen:
            where = path.child("hostAliases").index(index).child("ip")
            warnings.append(f"{where}: duplicate ip {quote(address)}")
        seen[address] = index
    return warnings


def _volume_warnings(spec: Json, path: Path) -> list[str]:
    warnings: list[str] = []
    claims: dict[str, int] = {}
    for index, volume in enumerate(spec.get("volumes") or ()):
        where = path.child("volumes").index(index)
        for kind, text in REMOVED_VOLUMES.items():
            if volume.get(kind) is not None:
                warnings.append(f"{where.child(kind)}: {text}")
        claims_here = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claims_here:
            claims[claims_here] = index
        claim = ((volume.get("ephemeral") or {}).get("volumeClaimTemplate") or {}).get("spec") or {}
        warnings += claim_warnings(claim, where.child("ephemeral", "volumeClaimTemplate", "spec"))
        warnings += overlap_warnings(volume)
    return warnings


def _container_warnings(container: Json, path: Path) -> list[str]:
    warnings: list[str] = []
    resources = container.get("resources") or {}
    for name in ("limits", "requests"):
        warnings += _fraction_warnings(resources.get(name) or {}, path.child("resources").child(name))
    seen: set[str] = set()
    for index, variable in enumerate(container.get("env") or ()):
        name = variable.get("name", "")
        if name in seen:
            detail = f"hides previous definition of {quote(name)}, which may be dropped when using apply"
            warnings.append(f"{path.child('env').index(index)}: {detail}")
        seen.add(name)
    return warnings


def claim_warnings(spec: Json, path: Path) -> list[str]:
    """Storage asked for in fractions of a byte; `path` is the claim's spec."""
    warnings: list[str] = []
    for kind in ("requests", "limits"):
        asked = (spec.get("resources") or {}).get(kind) or {}
        storage = {name: quantity for name, quantity in asked.items() if name == "storage"}
        warnings += _fraction_warnings(storage, path.child("resources", kind))
    return warnings


def _fraction_warnings(quantities: Mapping[str, str], path: Path, *, keyed: bool = True) -> list[str]:
    """Bytes do not come in fractions."""
    warnings: list[str] = []
    for name in sorted(quantities):
        if name in ("memory", "ephemeral-storage", "storage", "sizeLimit"):
            quantity = Quantity.parse(quantities[name])
            if quantity.milli_value() % 1000:
                where = path.key(name) if keyed else path.child(name)
                text = quote(str(quantity))
                warnings.append(f"{where}: fractional byte value {text} is invalid, must be an integer")
    return warnings


def _dns_warnings(spec: Json, path: Path) -> list[str]:
    config = spec.get("dnsConfig") or {}
    warnings: list[str] = []
    for index, search in enumerate(config.get("searches") or ()):
        if search.startswith("."):
            warnings.append(
                f"{path.child('dnsConfig', 'searches').index(index)}: a search path must not start with a dot"
            )
    for index, server in enumerate(config.get("nameservers") or ()):
        warnings += ip_warnings(server, path.child("dnsConfig", "nameservers").index(index))
    return warnings


def _port_warnings(spec: Json, path: Path) -> list[str]:
    warnings: list[str] = []
    seen: dict[tuple[int, int, str, str], Path] = {}
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            if kind == "initContainers" and container.get("restartPolicy") != "Always":
                seen = {}  # it runs alone
            for port_index, port in enumerate(container.get("ports") or ()):
                where = path.child(kind).index(index).child("ports").index(port_index)
                host_port, number = port.get("hostPort") or 0, port.get("containerPort") or 0
                key = (host_port, number, port.get("protocol") or "TCP", port.get("hostIP") or "")
                if key[3] and not host_port and not spec.get("hostNetwork"):
                    text = f"Name:{port.get('name') or ''} HostPort:0 ContainerPort:{number} Protocol:{key[2]}"
                    warnings.append(f"{where}: hostIP set without hostPort: {{{text} HostIP:{key[3]}}}")
                if key in seen:
                    warnings.append(f"{where}: duplicate port definition with {seen[key]}")
                else:
                    seen[key] = where
    return warnings


def ip_warnings(text: str, path: Path) -> list[str]:
    """Addresses written in a way that is no longer accepted everywhere."""
    address = parse_ip_sloppy(text)
    if address is None or str(address) == text:
        return []
    if re.fullmatch(r"[0-9.]+", text):
        return [f"{path}: non-standard IP address {quote(text)} is invalid: use {quote(str(address))}"]
    return [
        (
            f"{path}: IPv6 address {quote(text)} is not in RFC 5952 canonical format ({quote(str(address))}), "
            "which may cause controller apply-loops"
        )
    ]
