"""AdmissionConfiguration: what plug-ins are told by files, `--admission-control-config-file`.

    apiVersion: apiserver.config.k8s.io/v1
    kind: AdmissionConfiguration
    plugins:
    - name: PodSecurity
      path: podsecurity.yaml        # or `configuration:` with the document itself

https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/#apiserver-config-k8s-io-v1-AdmissionConfiguration
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tiphys.apiserver.configfile import ConfigError, check_kind, document, read
from tiphys.machinery.field import quote

Object = Mapping[str, Any]
VERSIONS: Final = ("apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1alpha1")
SCHEME: Final = "k8s.io/apiserver/pkg/apis/apiserver/install/install.go"


def load_configuration(path: Path) -> dict[str, Object]:
    """The documents of a file by the name of the plug-in. Raises ConfigError, worded as upstream's."""
    try:
        data = read(path)
    except ConfigError as error:
        what = "unable to read admission control configuration from"
        prefix = f"failed to apply admission: failed to read plugin config: {what}"
        raise ConfigError(f"{prefix} {quote(str(path))} [{error}]") from None
    found = document(data)
    check_kind(found, "AdmissionConfiguration", VERSIONS, SCHEME)
    documents: dict[str, Object] = {}
    for plugin in found.get("plugins") or ():
        name, where, inline = plugin.get("name") or "", plugin.get("path") or "", plugin.get("configuration")
        if inline is not None:
            documents[name] = inline
        elif where:
            documents[name] = document(read(path.parent / where))
    return documents


def check_document(plugin: str, found: Object, kind: str, versions: tuple[str, ...]) -> None:
    """Refuse a plug-in's document that is of another kind. Raises ConfigError."""
    version = str(found.get("apiVersion") or "")
    if found.get("kind") != kind or version not in versions:
        shown = quote(str(found.get("kind") or ""))
        problem = f"no kind {shown} is registered for version {quote(version)}"
        raise ConfigError(f"failed to apply admission: couldn't init admission plugin {quote(plugin)}: {problem}")
