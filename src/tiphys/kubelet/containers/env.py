"""The environment of a container, in the order in which it is built.

1. `envFrom`, source by source, each with its prefix;
2. `env`, one by one: later ones see earlier ones and the services through `$(VAR)`;
3. the services of the namespace, where nothing above has the name.

https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tiphys.api.core.v1 import ConfigMap, EnvVar, EnvVarSource, Pod, Secret
from tiphys.kubelet.containers.errors import ConfigError
from tiphys.kubelet.containers.expansion import expand
from tiphys.kubelet.containers.fields import field_value, resource_value
from tiphys.kubelet.pod import AnyContainer
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvContext:
    """What values are taken from besides the pod."""

    config_map: Callable[[ObjectName], Awaitable[ConfigMap]]
    secret: Callable[[ObjectName], Awaitable[Secret]]
    services: Mapping[str, str] = field(default_factory=dict)
    pod_ips: Sequence[str] = ()
    host_ips: Sequence[str] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Path] = field(default_factory=dict)


async def container_environment(pod: Pod, container: AnyContainer, context: EnvContext) -> dict[str, str]:
    """The variables in order. Raises ConfigError for what is missing and not optional."""
    result = await _from_sources(pod, container, context)
    seen = dict(context.services)
    seen.update(result)
    for variable in container.env:
        value = await _value(pod, container, variable, context, seen)
        if value is None:
            continue
        result.pop(variable.name, None)  # a later definition also takes the later place
        result[variable.name] = value
        seen[variable.name] = value
    for name, text in context.services.items():
        result.setdefault(name, text)
    return result


async def _from_sources(pod: Pod, container: AnyContainer, context: EnvContext) -> dict[str, str]:
    result: dict[str, str] = {}
    namespace = pod.metadata.namespace
    for source in container.env_from:
        data: Mapping[str, str] = {}
        if source.config_map_ref is not None:
            found = await _config_map(context, namespace, source.config_map_ref.name, source.config_map_ref.optional)
            data = found.data if found else {}
        elif source.secret_ref is not None:
            secret = await _secret(context, namespace, source.secret_ref.name, source.secret_ref.optional)
            data = {key: _text(value) for key, value in secret.data.items()} if secret else {}
        for key in sorted(data):
            result[source.prefix + key] = data[key]
    return result


async def _value(
    pod: Pod, container: AnyContainer, variable: EnvVar, context: EnvContext, seen: Mapping[str, str]
) -> str | None:
    """The value of one variable; None when an optional source is missing and the variable is left out."""
    source = variable.value_from
    if source is None:
        return expand(variable.value, seen)
    if source.field_ref is not None:
        return field_value(pod, source.field_ref, context.pod_ips, context.host_ips)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref, context.allocatable)
    if source.file_key_ref is not None:
        return _file_key(source, context)
    return await _key(pod, source, context)


async def _key(pod: Pod, source: EnvVarSource, context: EnvContext) -> str | None:
    namespace = pod.metadata.namespace
    if (ref := source.config_map_key_ref) is not None:
        found = await _config_map(context, namespace, ref.name, ref.optional)
        if found is None:
            return None
        if ref.key in found.data:
            return found.data[ref.key]
        if ref.optional:
            return None
        raise ConfigError(f"couldn't find key {ref.key} in ConfigMap {namespace}/{ref.name}")
    if (secret_ref := source.secret_key_ref) is not None:
        secret = await _secret(context, namespace, secret_ref.name, secret_ref.optional)
        if secret is None:
            return None
        if secret_ref.key in secret.data:
            return _text(secret.data[secret_ref.key])
        if secret_ref.optional:
            return None
        raise ConfigError(f"couldn't find key {secret_ref.key} in Secret {namespace}/{secret_ref.name}")
    raise ConfigError("a variable's valueFrom names no source")


def _file_key(source: EnvVarSource, context: EnvContext) -> str | None:
    """A key of an env file that an init container left in a volume (KEP-3721)."""
    ref = source.file_key_ref
    assert ref is not None
    volume = context.volumes.get(ref.volume_name)
    path = volume / ref.path if volume else None
    if path is None or ".." in Path(ref.path).parts or not path.is_file() or path.is_symlink():
        if ref.optional:
            return None
        raise ConfigError(f'file "{ref.path}" not found in volume "{ref.volume_name}"')
    for line in path.read_text(errors="replace").splitlines():
        name, found, value = line.strip().partition("=")
        if found and not line.lstrip().startswith("#") and name.strip() == ref.key:
            return value.strip().strip("'\"")
    if ref.optional:
        return None
    raise ConfigError(f'environment variable key "{ref.key}" not found in file "{ref.path}"')


async def _config_map(context: EnvContext, namespace: str, name: str, optional: bool | None) -> ConfigMap | None:
    try:
        return await context.config_map(ObjectName(namespace, name))
    except NotFoundError as error:
        if optional:
            return None
        raise ConfigError(error.message) from error


async def _secret(context: EnvContext, namespace: str, name: str, optional: bool | None) -> Secret | None:
    try:
        return await context.secret(ObjectName(namespace, name))
    except NotFoundError as error:
        if optional:
            return None
        raise ConfigError(error.message) from error


def _text(value: bytes) -> str:
    # The kernel takes any bytes but NUL; surrogates carry them through unchanged to where they are encoded again.
    return value.decode(errors="surrogateescape")
