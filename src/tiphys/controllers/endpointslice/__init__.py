"""EndpointSlices, and Endpoints: which addresses stand behind a Service, and in what condition.

`pods.py` turns pods into endpoints, `reconcile.py` fits endpoints into slices, `controller.py` does it
for Services with a selector, `mirroring.py` for Endpoints that users write, `endpoints.py` keeps the
older form. https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

from tiphys.controllers.endpointslice.controller import EndpointSliceController
from tiphys.controllers.endpointslice.endpoints import EndpointsController
from tiphys.controllers.endpointslice.mirroring import EndpointSliceMirroringController

__all__ = ["EndpointSliceController", "EndpointSliceMirroringController", "EndpointsController"]
