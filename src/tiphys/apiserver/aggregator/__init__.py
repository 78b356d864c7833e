"""API aggregation: groups and versions that other servers answer for, behind this server's address.

    APIService ──▶ apiservices   what is registered, in order of priority
                   availability  can its server be used?  ──▶ condition Available, metrics
                   discovery     what does it serve?      ──▶ /apis
                   openapi       its documents            ──▶ /openapi/v2, /openapi/v3
    request ─────▶ proxy ──▶ transport ──▶ the server, with the front proxy's certificate and who is asking

`aggregator` puts these together. https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/
"""
