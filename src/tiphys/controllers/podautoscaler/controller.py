"""The controller `horizontal-pod-autoscaler-controller`: every autoscaler is looked at every fifteen seconds."""

from __future__ import annotations

from msgspec.structs import replace

from tiphys.api.autoscaling.v2 import HorizontalPodAutoscaler
from tiphys.api.core.v1 import Pod
from tiphys.client import DONE, Controller, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.scales import Targets
from tiphys.controllers.podautoscaler.behavior import History
from tiphys.controllers.podautoscaler.metrics import MetricsClient
from tiphys.controllers.podautoscaler.proposals import Proposer
from tiphys.controllers.podautoscaler.replicas import Start
from tiphys.controllers.podautoscaler.round import Round, Tools
from tiphys.machinery.meta import ObjectName


class HorizontalPodAutoscalerController(Controller[ObjectName]):
    """The controller `horizontal-pod-autoscaler-controller`."""

    name = "horizontalpodautoscaler"

    def __init__(self, context: ControllerContext) -> None:
        options = context.options
        self._client = context.client
        self._period = options.hpa_sync_period
        self._autoscalers = context.informers.of(HorizontalPodAutoscaler)
        pods = context.informers.of(Pod)
        targets = Targets(context.client)
        start = Start(
            cpu_period=options.hpa_cpu_initialization_period, readiness_delay=options.hpa_initial_readiness_delay
        )
        self._tools = Tools(
            pods=pods.lister,
            targets=targets,
            proposer=Proposer(MetricsClient(context.client), targets, start),
            recorder=context.recorder("horizontal-pod-autoscaler"),
            tolerance=options.hpa_tolerance,
            downscale_window=options.hpa_downscale_stabilization,
        )
        self._histories: dict[ObjectName, History] = {}
        super().__init__(context.clock, (self._autoscalers, pods))
        # Once a period, whatever changes meanwhile: a round's own write of the status must not begin the next.
        self._autoscalers.add_handler(self._changed, self._updated, self._changed)

    def _changed(self, autoscaler: HorizontalPodAutoscaler) -> None:
        self.queue.add(key_of(autoscaler))

    def _updated(self, old: HorizontalPodAutoscaler, new: HorizontalPodAutoscaler) -> None:
        if old.spec != new.spec:
            self._changed(new)

    async def sync(self, key: ObjectName) -> Result:
        """One round of one autoscaler."""
        autoscaler = self._autoscalers.lister.get(key)
        if autoscaler is None:
            self._histories.pop(key, None)
            return DONE
        if key not in self._histories:
            history = self._histories[key] = History()
            if autoscaler.status.desired_replicas:
                # A new manager begins with what is: nothing is scaled down for lack of memory.
                history.recommendations.append((self.clock.now(), autoscaler.status.desired_replicas))
        status = await Round(self._tools, autoscaler, self._histories[key], self.clock.now()).run()
        if status != autoscaler.status:
            await self._client.update_status(replace(autoscaler, status=status))
        return RequeueAfter(self._period)
