"""Signs kube-public/cluster-info with every bootstrap token that may sign.

A joining node has a token but not yet the cluster's CA: the signature tells it that the CA in
cluster-info comes from someone who knows the token.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import ConfigMap, Secret
from tiphys.client import DONE, Controller, RequeueAfter, Result
from tiphys.controllers.bootstrap import tokens
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.meta import ObjectName

CLUSTER_INFO: Final = ObjectName("kube-public", "cluster-info")
KUBECONFIG: Final = "kubeconfig"
SIGNATURE: Final = "jws-kubeconfig-"


class BootstrapSignerController(Controller[ObjectName]):
    """The controller `bootstrap-signer-controller`; its one key is cluster-info."""

    name = "bootstrap_signer_queue"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._maps = context.informers.of(
            ConfigMap, namespace=CLUSTER_INFO.namespace, field_selector=f"metadata.name={CLUSTER_INFO.name}"
        )
        self._secrets = context.informers.of(Secret, namespace="kube-system", field_selector=f"type={tokens.TYPE}")
        super().__init__(context.clock, (self._maps, self._secrets))
        for informer in (self._maps, self._secrets):
            informer.add_handler(
                lambda _: self.queue.add(CLUSTER_INFO),
                lambda _, __: self.queue.add(CLUSTER_INFO),
                lambda _: self.queue.add(CLUSTER_INFO),
            )

    async def sync(self, key: ObjectName) -> Result:
        """Bring the signatures in line with the tokens."""
        info = self._maps.lister.get(CLUSTER_INFO)
        content = info.data.get(KUBECONFIG) if info is not None else None
        if info is None or content is None:
            return DONE
        now = self.clock.now()
        secrets = self._secrets.lister.list()
        data = {name: text for name, text in info.data.items() if not name.startswith(SIGNATURE)}
        for secret in secrets:
            token = tokens.signing_token(secret, now)
            if token is not None:
                data[SIGNATURE + token[0]] = tokens.detached_signature(content, *token)
        if data != dict(info.data):
            await self._client.update(replace(info, data=data))
        ends = [end for secret in secrets if (end := tokens.expires(secret)) is not None and end > now]
        return RequeueAfter(min(ends) - now) if ends else DONE
