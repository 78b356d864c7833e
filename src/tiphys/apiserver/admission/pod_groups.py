"""PodGroupWorkloadExists: a group of pods that names a template of a Workload is made only when both are there.

https://github.com/kubernetes/enhancements/tree/master/keps/sig-scheduling/5832-decouple-podgroup-api
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.admission.base import CREATE, AdmissionPlugin, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.machinery.meta import ObjectName

GROUP: Final = "scheduling.k8s.io"


class PodGroupWorkloadExists(AdmissionPlugin):
    """Looks at groups of pods that are made, where `--runtime-config` has them served."""

    name = "PodGroupWorkloadExists"
    operations = CREATE
    resources = frozenset({(GROUP, "podgroups")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        spec = (attributes.object or {}).get("spec") or {}
        named = (spec.get("podGroupTemplateRef") or {}).get("workload")
        if named is None:
            return
        workload_name, template = named.get("workloadName") or "", named.get("podGroupTemplateName") or ""
        workload = self.reader.get(GROUP, "workloads", ObjectName(attributes.namespace, workload_name))
        if workload is None:
            raise refuse(attributes, f'PodGroup rejected: Workload "{workload_name}" not found')
        templates = (workload.get("spec") or {}).get("podGroupTemplates") or ()
        if not any(one.get("name") == template for one in templates):
            what = f'PodGroupTemplate "{template}" not found in Workload "{workload_name}"'
            raise refuse(attributes, f"PodGroup rejected: {what}")
