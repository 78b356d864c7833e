"""Streams over one HTTP connection, as kubectl exec, attach, cp and port-forward use them.

The protocols are plain state machines without I/O (`spdy`, `websocket`, `http`); `spdy_connection` and
`websocket_connection` put them on asyncio byte streams; `remotecommand` and `portforward` are Kubernetes' own
conventions on top, for both ends. Nothing here knows containers.
"""
