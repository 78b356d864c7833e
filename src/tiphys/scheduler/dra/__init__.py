"""Dynamic resource allocation: which devices a pod's claims get, and so on which nodes the pod can run.

    ResourceSlices ─ inventory ─▶ devices by node ─┐
    ResourceClaims ─ ledger ────▶ what is taken ───┼─ allocator ─▶ devices ─ results ─▶ status.allocation
    DeviceClasses, CEL ─ selectors ────────────────┘

https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/  KEP-4381
"""
