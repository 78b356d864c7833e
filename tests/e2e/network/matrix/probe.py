"""Serves and asks, inside pods, on nodes and outside: the one program of the matrix tests. Standard library only.

    probe.py serve NAME PORT…    TCP and UDP, both families; answers "NAME client-address"; PORT/http: that
                                 over HTTP, with the client a proxy has told of
    probe.py ask                 questions on standard input, answers on standard output, both JSON

A question is [id, "tcp", "udp" or "http/SITE", host, port]; its answer the server's words, or `refused`, `timeout`,
`unreachable`, `unresolved` or the number of an HTTP status that is not 200.
"""

import asyncio
import contextlib
import errno
import http.server
import json
import socket
import sys
import threading

PATIENCE = 1.2  # seconds: beyond the kernel's second SYN
AT_ONCE = 48


def serve(name, ports):
    def both(kind, port):
        made = socket.socket(socket.AF_INET6, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", port))
        return made

    def words(peer):
        return f"{name} {peer[0].removeprefix('::ffff:')}".encode()

    def datagrams(sock):
        # An answer must come from the address that was asked, which on a node is not always the first.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        while True:
            _, ancillary, _, peer = sock.recvmsg(100, 200)
            sock.sendmsg(
                [words(peer)], [(level, kind, data[:16] + bytes(4)) for level, kind, data in ancillary], 0, peer
            )

    def converse(connection, peer):
        # What was asked is read to its end: closed before that, the connection would be reset, and its client free to
        # use its port again while the node still knows the old connection, to a pod that may be gone by then.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            connection.sendall(words(peer))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(100):
                pass

    def connections(sock):
        sock.listen(128)
        while True:
            threading.Thread(target=converse, args=sock.accept(), daemon=True).start()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{name} {self.headers.get('X-Forwarded-For', '')}".encode())

        def log_message(self, *_):
            pass

    def pages(port):
        served = http.server.ThreadingHTTPServer(("", port), Page, bind_and_activate=False)
        served.socket.close()
        served.socket = both(socket.SOCK_STREAM, port)
        served.server_activate()
        served.serve_forever()

    for word in ports:
        port, _, kind = word.partition("/")
        port = int(port)
        if kind == "http":
            threading.Thread(target=pages, args=(port,)).start()
            continue
        threading.Thread(target=datagrams, args=(both(socket.SOCK_DGRAM, port),)).start()
        threading.Thread(target=connections, args=(both(socket.SOCK_STREAM, port),)).start()


async def ask(protocol, host, port):
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except socket.gaierror:
        return "unresolved"
    family, _, _, _, address = found[0]
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    protocol, _, site = protocol.partition("/")
    with socket.socket(family, kind) as channel:
        channel.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await loop.sock_connect(channel, address)
                if protocol == "udp":
                    # Refused or dropped on its way out of the own node, it is EPERM; only one who refuses says more.
                    with contextlib.suppress(PermissionError):
                        await loop.sock_sendall(channel, b"?")
                if protocol == "http":
                    return await read_page(channel, site)
                return (await loop.sock_recv(channel, 200)).decode()
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return "unreachable" if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH) else "refused"


async def read_page(channel, site):
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(channel, f"GET / HTTP/1.0\r\nHost: {site}\r\n\r\n".encode())
    said = b""
    while piece := await loop.sock_recv(channel, 4096):
        said += piece
    head, _, body = said.decode().partition("\r\n\r\n")
    words = head.split()
    status = words[1] if len(words) > 1 else "closed"
    return body if status == "200" else status


async def ask_all(questions):
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(protocol, host, port):
        async with gate:
            return await ask(protocol, host, port)

    answers = await asyncio.gather(*(one(*words) for _, *words in questions))
    return dict(zip([each[0] for each in questions], answers, strict=True))


if sys.argv[1] == "serve":
    serve(sys.argv[2], sys.argv[3:])
else:
    print(json.dumps(asyncio.run(ask_all(json.load(sys.stdin)))))
