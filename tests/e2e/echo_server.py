"""Answers with a fixed word and the client's address; prints a line when it listens. Used by netlab."""

import socket
import sys
import threading

kind, port, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sock.bind(("::", port))
if kind == "tcp":
    sock.listen(64)
print("ready", flush=True)


def converse(connection: socket.socket, peer: str) -> None:
    with connection:
        try:
            while connection.recv(100):
                connection.sendall(f"{answer} {peer}".encode())
        except OSError:
            pass


while True:
    if kind == "udp":
        data, peer = sock.recvfrom(2000)
        sock.sendto(f"{answer} {peer[0].removeprefix('::ffff:')}".encode(), peer)
    else:
        connection, peer = sock.accept()
        client = peer[0].removeprefix("::ffff:")
        threading.Thread(target=converse, args=(connection, client), daemon=True).start()
