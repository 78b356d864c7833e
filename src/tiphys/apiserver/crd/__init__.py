"""Custom resources: what a CustomResourceDefinition says becomes a resource like any other.

    definition ─ controller (names, conditions, deletion) ─▶ resource map, discovery, OpenAPI
    openAPIV3Schema ─ structural ─▶ pruning, defaults, TypeSchema (apply) ─ validation ─ rules (CEL)

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""
