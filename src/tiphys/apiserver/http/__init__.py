"""Connections, requests and responses: HTTP/1.1 over TLS on asyncio.Protocol and httptools."""
