"""Types that `kubernetes-validate` does not carry: which to take from the protobuf table, and which by hand."""

from __future__ import annotations

META_OPTIONS = ("CreateOptions", "UpdateOptions", "PatchOptions", "GetOptions", "ListOptions", "ApplyOptions")
CONNECT_OPTIONS = (
    "NodeProxyOptions",
    "PodAttachOptions",
    "PodExecOptions",
    "PodLogOptions",
    "PodPortForwardOptions",
    "PodProxyOptions",
    "ServiceProxyOptions",
)

EXTRA_KINDS: dict[str, tuple[str, str]] = {
    **{f"meta.v1.{name}": ("", "v1") for name in META_OPTIONS},
    **{f"core.v1.{name}": ("", "v1") for name in CONNECT_OPTIONS},
    "core.v1.SerializedReference": ("", "v1"),
    "core.v1.RangeAllocation": ("", "v1"),
    "core.v1.PodStatusResult": ("", "v1"),
    "meta.v1.PartialObjectMetadata": ("meta.k8s.io", "v1"),
    "meta.v1.PartialObjectMetadataList": ("meta.k8s.io", "v1"),
    "meta.v1.TableOptions": ("meta.k8s.io", "v1"),
    "meta.v1.List": ("", "v1"),
    "admission.v1.AdmissionReview": ("admission.k8s.io", "v1"),
    "apidiscovery.v2.APIGroupDiscovery": ("apidiscovery.k8s.io", "v2"),
    "apidiscovery.v2.APIGroupDiscoveryList": ("apidiscovery.k8s.io", "v2"),
    "apidiscovery.v2beta1.APIGroupDiscovery": ("apidiscovery.k8s.io", "v2beta1"),
    "apidiscovery.v2beta1.APIGroupDiscoveryList": ("apidiscovery.k8s.io", "v2beta1"),
    "apiextensions.v1.ConversionReview": ("apiextensions.k8s.io", "v1"),
}

EXTRA_TYPES = (
    *EXTRA_KINDS,
    "meta.v1.GroupVersionKind",
    "meta.v1.GroupVersionResource",
    "meta.v1.GroupKind",
    "admission.v1.AdmissionRequest",
    "admission.v1.AdmissionResponse",
    "apiextensions.v1.ConversionRequest",
    "apiextensions.v1.ConversionResponse",
    *(
        f"apidiscovery.{version}.{name}"
        for version in ("v2", "v2beta1")
        for name in ("APIVersionDiscovery", "APIResourceDiscovery", "APISubresourceDiscovery")
    ),
)

_Fields = dict[str, tuple[str, bool]]

# name → (kind, field → (node, required)), for what neither source has.
HAND_TYPES: dict[str, tuple[tuple[str, str] | None, _Fields]] = {
    "meta.v1.Table": (
        ("meta.k8s.io", "v1"),
        {
            "metadata": ("@meta.v1.ListMeta", False),
            "columnDefinitions": ("[@meta.v1.TableColumnDefinition", True),
            "rows": ("[@meta.v1.TableRow", True),
        },
    ),
    "meta.v1.TableColumnDefinition": (
        None,
        {
            "name": ("s", True),
            "type": ("s", True),
            "format": ("s", True),
            "description": ("s", True),
            "priority": ("i", True),
        },
    ),
    "meta.v1.TableRow": (
        None,
        {
            "cells": ("[*", True),
            "conditions": ("[@meta.v1.TableRowCondition", False),
            "object": ("o", False),
        },
    ),
    "meta.v1.TableRowCondition": (
        None,
        {"type": ("s", True), "status": ("s", True), "reason": ("s", False), "message": ("s", False)},
    ),
}
