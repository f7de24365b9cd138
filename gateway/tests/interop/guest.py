#!/usr/bin/python3
"""The init of a user-mode Linux guest whose kernel is the IPsec peer of `kernel.rs`.

It reads requests from its second console, a JSON object a line, and answers each in a line. When whoever asks is
gone it powers the guest off. The guest's root is the machine's own, read-only, so this has Debian's Python and ip.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import tty

MODULES = ["xfrm_user", "esp4", "esp6", "ah4", "ah6", "xfrm4_tunnel", "xfrm6_tunnel", "seqiv", "echainiv",
           "jitterentropy_rng", "drbg", "ctr", "cbc", "gcm", "ghash-generic", "chacha_generic", "poly1305_generic", "chacha20poly1305",
           "authenc", "authencesn", "hmac", "sha512_generic", "cmac", "xcbc", "ecb", "des_generic", "crypto_null"]
SYS_FINIT_MODULE = 313  # x86_64, the only architecture of Debian's user-mode-linux
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2  # linux/udp.h
POWER_OFF = 0x4321FEDC  # linux/reboot.h

libc = ctypes.CDLL(None, use_errno=True)
kept = []


def main():
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    check(libc.mount(b"proc", b"/proc", b"proc", 0, None), "/proc")
    console = os.open("/dev/tty1", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(console)
    try:
        load_modules()
        answer(console, {})
        for line in os.fdopen(os.dup(console), "rb", buffering=4096):
            answer(console, attempt(json.loads(line)))
    except OSError as error:
        print(error, file=sys.stderr)  # among them: the console was hung up


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


def answer(console, value):
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(console, data):]


def attempt(request):
    try:
        return {"ok": globals()["do_" + request.pop("do")](**request)}
    except Exception as error:
        return {"error": repr(error)}


def load_modules():
    top = "/usr/lib/uml/modules/" + os.uname().release
    needs = {}
    with open(top + "/modules.dep") as table:
        for line in table:
            path, others = line.split(":")
            needs[os.path.basename(path).removesuffix(".ko")] = (path, others.split())
    loaded = set()
    for name in MODULES:
        path, others = needs.get(name, ("", []))
        if not path:
            continue  # built in
        for each in [*reversed(others), path]:
            if each not in loaded:
                loaded.add(each)
                with open(f"{top}/{each}", "rb") as file:
                    result = libc.syscall(SYS_FINIT_MODULE, file.fileno(), b"", 0)
                    check(result, each)


def do_run(argv):
    """Runs a program; what it wrote, and its exit code."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    return {"code": done.returncode, "text": done.stdout.decode(errors="replace")}


def do_read(path):
    with open(path) as file:
        return file.read()


def do_write(path, text):
    with open(path, "w") as file:
        file.write(text)


def do_decapsulate(port):
    """Has the kernel take ESP out of the UDP packets to a port (RFC 3948)."""
    for family, wildcard in [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]:
        encapsulated = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            encapsulated.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        encapsulated.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
        encapsulated.bind((wildcard, port))
        kept.append(encapsulated)


def do_echo(port):
    """Sends back what comes over TCP."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    kept.append(server)

    def serve(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept():
        while True:
            connection, _ = server.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def do_stream(source, to, port, size):
    """Sends bytes to a server that sends them back, while it does; whether the same came."""
    data = os.urandom(1 << 16) * (size >> 16)
    with socket.create_connection((to, port), timeout=20, source_address=(source, 0)) as connection:
        def send():
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = bytearray()
        while part := connection.recv(65536):
            got += part
        sender.join()
    return bytes(got) == data


if __name__ == "__main__":
    try:
        main()
    finally:
        libc.reboot(POWER_OFF)
