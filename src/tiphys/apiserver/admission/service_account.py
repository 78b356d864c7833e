"""ServiceAccount: every pod runs as an account of its namespace, and finds its token where programs look for it.

https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#serviceaccount-admission-controller
"""

from __future__ import annotations

import random
from typing import Final

from tiphys.apiserver.admission.base import CREATE, AdmissionParts, AdmissionPlugin, Object, containers, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.machinery.meta import ObjectName

MOUNT_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX: Final = "kube-api-access-"
MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
ENFORCE_SECRETS: Final = "kubernetes.io/enforce-mountable-secrets"
# A little more than an hour: a kubelet renews it before, and it can be told from the default.
TOKEN_SECONDS: Final = 3607
# A namespace's first pods often come with it, before the controller has made its account.
DEFAULT: Final = "default"
PATIENCE: Final = 1.4  # seconds; Kubernetes looks ten times, 100 to 200 ms apart
LOOK_EVERY: Final = 0.02  # seconds
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


class ServiceAccount(AdmissionPlugin):
    """Fills in the account, its token and its image pull secrets."""

    name = "ServiceAccount"
    operations = CREATE
    resources = frozenset({("", "pods")})

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._clock = parts.clock

    async def admit(self, attributes: AdmissionAttributes) -> None:
        pod = attributes.object
        if pod is None:
            return
        if _is_mirror(pod):
            await self.validate(attributes)
            return
        spec = pod.setdefault("spec", {})
        if not spec.get("serviceAccountName"):
            spec["serviceAccountName"] = spec["serviceAccount"] = DEFAULT
        account = await self._account(attributes, spec["serviceAccountName"])
        if _automount(account, spec):
            mount_token(spec)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [dict(reference) for reference in account["imagePullSecrets"]]

    async def validate(self, attributes: AdmissionAttributes) -> None:
        pod = attributes.object
        if pod is None:
            return
        spec = pod.get("spec", {})
        if _is_mirror(pod):
            if spec.get("serviceAccountName"):
                raise refuse(attributes, "a mirror pod may not reference service accounts")
            if any("secret" in volume for volume in spec.get("volumes") or ()):
                raise refuse(attributes, "a mirror pod may not reference secrets")
            return
        account = await self._account(attributes, spec.get("serviceAccountName", ""))
        if account["metadata"].get("annotations", {}).get(ENFORCE_SECRETS) == "true":
            self._only_listed_secrets(attributes, account, spec)

    async def _account(self, attributes: AdmissionAttributes, name: str) -> Object:
        """The account of that name; the default one is waited for, as every namespace is about to have it."""
        key = ObjectName(attributes.namespace, name)
        account = self.reader.get("", "serviceaccounts", key)
        looks = round(PATIENCE / LOOK_EVERY) if name == DEFAULT else 0
        while account is None and looks:
            looks -= 1
            await self._clock.sleep(LOOK_EVERY)
            account = self.reader.get("", "serviceaccounts", key)
        if account is None:
            raise refuse(
                attributes,
                f'error looking up service account {attributes.namespace}/{name}: serviceaccount "{name}" not found',
            )
        return account

    @staticmethod
    def _only_listed_secrets(attributes: AdmissionAttributes, account: Object, spec: Object) -> None:
        allowed = {reference.get("name") for reference in account.get("secrets") or ()}
        name = account["metadata"]["name"]
        for volume in spec.get("volumes") or ():
            secret = volume.get("secret", {}).get("secretName")
            if secret and secret not in allowed:
                raise refuse(
                    attributes,
                    f'volume with secret.secretName="{secret}" is not allowed because service account {name} '
                    "does not reference that secret",
                )
        for container in containers(spec):
            for variable in container.get("env") or ():
                secret = (variable.get("valueFrom") or {}).get("secretKeyRef", {}).get("name")
                if secret and secret not in allowed:
                    raise refuse(
                        attributes,
                        f"container {container['name']} with envVar {variable['name']} referencing "
                        f'secret.secretName="{secret}" is not allowed because service account {name} '
                        "does not reference that secret",
                    )


def _is_mirror(pod: Object) -> bool:
    return MIRROR_ANNOTATION in (pod.get("metadata", {}).get("annotations") or {})


def _automount(account: Object, spec: Object) -> bool:
    """The pod's word counts before the account's; without either, yes."""
    for wish in (spec.get("automountServiceAccountToken"), account.get("automountServiceAccountToken")):
        if wish is not None:
            return bool(wish)
    return True


def mount_token(spec: Object) -> None:
    """Give every container the token volume at the well-known path, unless it mounts something there itself."""
    volumes = spec.get("volumes") or []
    name = next((volume["name"] for volume in volumes if volume.get("name", "").startswith(VOLUME_PREFIX)), "")
    fresh = not name
    if fresh:
        name = VOLUME_PREFIX + "".join(random.choices(_ALPHABET, k=5))
    mounted = False
    for container in containers(spec):
        mounts = container.get("volumeMounts") or []
        if any(mount.get("mountPath") == MOUNT_PATH for mount in mounts):
            continue
        container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}]
        mounted = True
    if mounted and fresh:
        spec["volumes"] = [*volumes, token_volume(name)]


def token_volume(name: str) -> Object:
    """Token, the cluster's CA and the namespace, in one projected volume."""
    return {
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {
                    "downwardAPI": {
                        "items": [
                            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                        ]
                    }
                },
            ],
            "defaultMode": 420,
        },
    }
