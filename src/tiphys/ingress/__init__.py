"""HTTP into the cluster: Ingress and Gateway API objects become the configuration of a kept proxy, HAProxy.

Ingress ─ ingresses ─┐                      ┌─ haproxy/config ── a file, reloaded without losing connections
                     ├─ model.Site ─────────┤
Gateway ─ gateways ──┘   what is wanted     └─ haproxy/servers ─ addresses of endpoints, told to the running proxy
"""
