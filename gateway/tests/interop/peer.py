"""The peer of Spillway in `scapy.rs`: the remote gateway on device `wan`, and the hosts of the local network on
device `lan`. scapy's IPsec layer opens what the gateway sends and seals what it must accept.

Reads a plan (JSON) from the file that is named as its argument. Writes a line of JSON a case: its name, and
`error`, which is null when all of it held.
"""

import itertools
import json
import select
import socket
import struct
import sys
import time

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.ipsec import AH, CRYPT_ALGOS, ESP, CryptAlgo, SecurityAssociation
from scapy.packet import Raw
from cryptography.hazmat.primitives.ciphers import aead, algorithms, modes

PATIENCE = 5.0
ETH_ARP, ETH_IPV4, ETH_IPV6 = 0x0806, 0x0800, 0x86DD
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
SIZES = (0, 97, 1200)


def register_algorithms():
    """What `cryptography` can do and scapy has no entry for: short ICVs of GCM (RFC 4106 s6) and implicit IVs
    (RFC 8750 s3: the IV is the 64-bit sequence number)."""
    salted = lambda sa, iv, **_: sa.crypt_salt + iv
    counted = lambda sa, **_: sa.crypt_salt + struct.pack("!LL", sa.esn, sa.seq_num)
    common = dict(salt_size=4, block_size=1)
    for icv in (8, 12):
        name = f"AES-GCM-{icv}"
        CRYPT_ALGOS[name] = CryptAlgo(name, cipher=algorithms.AES, mode=modes.GCM, key_size=(16, 24, 32),
                                      iv_size=8, icv_size=icv, format_mode_iv=salted, **common)
    for name, cipher, sizes in (("AES-GCM-IIV", aead.AESGCM, (16, 24, 32)),
                                ("CHACHA20-POLY1305-IIV", aead.ChaCha20Poly1305, (32,))):
        CRYPT_ALGOS[name] = CryptAlgo(name, cipher=cipher, mode=None, key_size=sizes, iv_size=0, icv_size=16,
                                      format_mode_iv=counted, **common)


COMBINED = {"gcm16": "AES-GCM", "gcm12": "AES-GCM-12", "gcm8": "AES-GCM-8", "gcm16iiv": "AES-GCM-IIV",
            "gmac": "AES-NULL-GMAC"}
INTEGRITY = {"sha1": "HMAC-SHA1-96", "sha256": "SHA2-256-128", "sha384": "SHA2-384-192",
             "sha512": "SHA2-512-256", "aescmac": "AES-CMAC-96"}


def suite_arguments(suite, key):
    """Turns a keyword of Spillway and a key file's content into arguments of `SecurityAssociation`."""
    if suite.startswith("chacha20poly1305"):
        name = "CHACHA20-POLY1305" + ("-IIV" if suite.endswith("iiv") else "")
        return dict(crypt_algo=name, crypt_key=key)
    if suite in INTEGRITY:
        return dict(auth_algo=INTEGRITY[suite], auth_key=key)
    cipher, _, integrity = suite.partition("-")
    if not integrity:
        return dict(crypt_algo=COMBINED[cipher[len("aes128"):]], crypt_key=key)
    auth = INTEGRITY[integrity]
    if cipher == "null":
        return dict(crypt_algo="NULL", auth_algo=auth, auth_key=key)
    name, length = ("3DES", 24) if cipher == "3des" else ("AES-CBC", int(cipher[3:]) // 8)
    return dict(crypt_algo=name, crypt_key=key[:length], auth_algo=auth, auth_key=key[length:])


class Failure(Exception):
    """What the gateway did wrong."""


def check(condition, what):
    if not condition:
        raise Failure(what)


class Link:
    """A device: sends IP packets to the gateway, and answers ARP and ND for every address but the gateway's."""

    def __init__(self, device, gateway_mac):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((device, 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.mac = self.socket.getsockname()[4]
        self.gateway = bytes.fromhex(gateway_mac.replace(":", ""))

    def send(self, packet):
        kind = ETH_IPV4 if packet[0] >> 4 == 4 else ETH_IPV6
        self.socket.send(self.gateway + self.mac + struct.pack("!H", kind) + packet)

    def read(self):
        """One IP packet that is not about neighbours, or None."""
        frame, address = self.socket.recvfrom(65536)
        if address[2] == socket.PACKET_OUTGOING:
            return None
        kind, body = struct.unpack("!H", frame[12:14])[0], frame[14:]
        if kind == ETH_ARP:
            self.answer_arp(body)
        elif kind == ETH_IPV6 and body[6] == socket.IPPROTO_ICMPV6 and body[40] in (135, 136):
            self.answer_solicitation(body)
        elif kind in (ETH_IPV4, ETH_IPV6):
            length = struct.unpack("!H", body[2:4])[0] if kind == ETH_IPV4 else 40 + struct.unpack("!H", body[4:6])[0]
            check(length <= len(body), f"an IP packet of {length} bytes in a frame of {len(body)}")
            return body[:length]
        return None

    def answer_arp(self, body):
        operation, sender_mac, sender, target = struct.unpack("!6xH6s4s6x4s", body[:28])
        if operation == 1 and sender != target and sender != bytes(4):
            reply = struct.pack("!HHBBH6s4s6s4s", 1, ETH_IPV4, 6, 4, 2, self.mac, target, sender_mac, sender)
            self.socket.send(sender_mac + self.mac + struct.pack("!H", ETH_ARP) + reply)

    def answer_solicitation(self, body):
        source, target = body[8:24], body[48:64]
        if body[40] != NEIGHBOUR_SOLICITATION or source == bytes(16):
            return
        # Solicited and override; the target's link-layer address as an option (RFC 4861 s4.4).
        message = struct.pack("!BBHI16sBB6s", NEIGHBOUR_ADVERTISEMENT, 0, 0, 0x60000000, target, 2, 1, self.mac)
        pseudo = target + source + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
        message = message[:2] + struct.pack("!H", internet_checksum(pseudo + message)) + message[4:]
        header = struct.pack("!IHBB16s16s", 0x60000000, len(message), socket.IPPROTO_ICMPV6, 255, target, source)
        self.socket.send(self.gateway + self.mac + struct.pack("!H", ETH_IPV6) + header + message)


class Network:
    """Both links."""

    def __init__(self, plan):
        self.wan, self.lan = Link("wan", plan["wan_mac"]), Link("lan", plan["lan_mac"])

    def receive(self, link, what):
        """The next IP packet on `link`; nothing may come on the other."""
        end = time.monotonic() + PATIENCE
        while True:
            ready, _, _ = select.select([self.wan.socket, self.lan.socket], [], [], max(0, end - time.monotonic()))
            check(ready, f"{what}: nothing came")
            for one in (self.wan, self.lan):
                if one.socket in ready:
                    packet = one.read()
                    if packet is not None:
                        check(one is link, f"{what}: came on the wrong side: {packet.hex()}")
                        return packet

    def drain(self):
        while select.select([self.wan.socket, self.lan.socket], [], [], 0.05)[0]:
            for one in (self.wan, self.lan):
                if select.select([one.socket], [], [], 0)[0]:
                    try:
                        one.read()
                    except Failure:
                        pass


def internet_checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def ip_layer(source, destination, **fields):
    if ":" in source:
        return IPv6(src=source, dst=destination, **fields)
    return IP(src=source, dst=destination, **fields)


def forwarded(packet):
    """A packet as a router passes it on: one hop less, and the checksum that goes with it."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
    header = bytearray(packet[:20])
    header[8] -= 1
    header[10:12] = bytes(2)
    header[10:12] = struct.pack("!H", internet_checksum(bytes(header)))
    return bytes(header) + packet[20:]


class Case:
    def __init__(self, plan, network):
        self.plan, self.network = plan, network
        self.proto = {"esp": ESP, "ah": AH}[plan["protocol"]]
        self.tunnel = plan["mode"] == "tunnel"
        local, remote, udp = plan["local"], plan["remote"], plan["udp"]
        self.v6 = ":" in local
        self.receiver = self.association("out", local, remote, udp)
        self.sender = self.association("in", remote, local, udp and udp[::-1])
        self.numbers = itertools.count(1)
        self.seen = 0

    def association(self, direction, source, destination, udp):
        sa = self.plan[direction]
        more = suite_arguments(self.plan["suite"], bytes.fromhex(sa["key"]))
        if self.tunnel:
            more["tunnel_header"] = ip_layer(source, destination)
        if udp:
            more["nat_t_header"] = UDP(sport=udp[0], dport=udp[1])
        return SecurityAssociation(self.proto, spi=sa["spi"], esn_en=self.plan["esn"], **more)

    def run(self):
        if self.tunnel:
            self.run_tunnel()
        else:
            self.run_transport()

    def run_tunnel(self):
        for ends in self.plan["inner"]:
            for number, size in enumerate(SIZES):
                outgoing = self.inner(ends["local"], ends["remote"], number, size)
                self.network.lan.send(outgoing)
                opened = self.open(self.network.receive(self.network.wan, f"protected, {size} bytes"))
                self.same(opened, forwarded(outgoing), f"opened, {size} bytes")
                self.accepted(self.inner(ends["remote"], ends["local"], number, size))
        ends = self.plan["inner"][0]
        self.refused(self.inner(ends["remote"], ends["local"], 1, 64), self.accepted)
        if self.plan["esn"]:
            self.roll_over(lambda: self.accepted(self.inner(ends["remote"], ends["local"], 0, 64)))

    def run_transport(self):
        for number, size in enumerate(SIZES):
            self.answered(number, size)
        self.refused(self.echo(7, 64), lambda _: self.answered(8, 64))
        if self.plan["esn"]:
            self.roll_over(lambda: self.answered(9, 64))

    def accepted(self, packet):
        """Seals a packet; the gateway must pass it on."""
        self.network.wan.send(self.seal(packet))
        arrived = self.network.receive(self.network.lan, "forwarded")
        self.same(arrived, forwarded(packet), "forwarded")

    def answered(self, number, size):
        """Pings the gateway, protected; its answer must come protected."""
        request = self.echo(number, size)
        self.network.wan.send(self.seal(request))
        reply = self.open(self.network.receive(self.network.wan, f"echo reply, {size} bytes"))
        header = 40 if self.v6 else 20
        kind = (ICMPv6EchoReply if self.v6 else ICMP)(reply[header:])
        check(kind.type == (129 if self.v6 else 0), f"no echo reply: {reply.hex()}")
        self.same(reply[header + 4:], request[header + 4:], "echoed")
        ends = slice(8, 40) if self.v6 else slice(12, 20)
        half = 16 if self.v6 else 4
        self.same(reply[ends], request[ends][half:] + request[ends][:half], "addresses")

    def refused(self, packet, then):
        """A changed packet, a copy of one that was accepted, and one in the clear: none may pass. What `then` does
        must come first out of the gateway."""
        sealed = bytearray(self.seal(packet))
        sealed[-1] ^= 1
        self.network.wan.send(bytes(sealed))
        if self.tunnel:
            again = self.seal(packet)
            self.network.wan.send(again)
            self.network.receive(self.network.lan, "forwarded")
        else:
            again = self.seal(packet)
            self.network.wan.send(again)
            self.open(self.network.receive(self.network.wan, "echo reply"))
        self.network.wan.send(again)
        self.network.wan.send(packet)
        then(self.inner(self.plan["inner"][0]["remote"], self.plan["inner"][0]["local"], 0, 33))

    def roll_over(self, step):
        """The peer's sequence numbers pass 2^32 (RFC 4303 A2.1): the upper half is not sent, but protected."""
        for number in (0x8000_0000, 0xFFFF_FFF0, 0x1_0000_0007, 0x1_0000_0006):
            self.numbers = itertools.count(number)
            step()

    def inner(self, source, destination, number, size):
        """An IP packet between hosts: UDP, TCP or ICMP with `size` bytes of payload."""
        v6 = ":" in source
        body = Raw(bytes((size * 7 + i) % 251 for i in range(size)))
        upper = (UDP(sport=1024 + number, dport=53), TCP(sport=2048, dport=443, seq=7),
                 ICMPv6EchoRequest(id=5) if v6 else ICMP(id=5))[number % 3]
        fields = dict(hlim=33, tc=0xB8, fl=0x12345) if v6 else dict(ttl=33, tos=0xB8, id=0x1234)
        return bytes(ip_layer(source, destination, **fields) / upper / body)

    def echo(self, number, size):
        body = Raw(bytes((size * 5 + i) % 253 for i in range(size)))
        request = ICMPv6EchoRequest(id=9, seq=number) if self.v6 else ICMP(id=9, seq=number)
        return bytes(ip_layer(self.plan["remote"], self.plan["local"]) / request / body)

    def seal(self, packet):
        number = next(self.numbers)
        sa = self.sender
        # Algorithms with an implicit IV take it from here.
        sa.seq_num, sa.esn = number & 0xFFFFFFFF, number >> 32
        layer = IPv6 if packet[0] >> 4 == 6 else IP
        sealed = sa.encrypt(layer(packet), seq_num=sa.seq_num, esn=sa.esn)
        if self.v6 and self.plan["udp"]:
            # scapy leaves the UDP checksum zero, which IPv6 does not allow (RFC 8200 s8.1).
            del sealed[UDP].chksum
        return bytes(sealed)

    def open(self, packet):
        """Opens what the gateway sent, after a look at the outer headers."""
        self.check_outer(packet)
        outer = (IPv6 if self.v6 else IP)(packet)
        sa = self.receiver
        check(outer.haslayer(self.proto), f"is not protected: {packet.hex()}")
        # Its numbers are 1, 2, 3, ... (RFC 4303 s3.3.3).
        self.seen += 1
        check(outer[self.proto].seq == self.seen, f"sequence number {outer[self.proto].seq}, not {self.seen}")
        sa.seq_num, sa.esn = self.seen, 0
        if self.plan["udp"]:
            ports = (outer[UDP].sport, outer[UDP].dport)
            check(ports == tuple(self.plan["udp"]), f"UDP ports {ports}")
        return bytes(sa.decrypt(outer))

    def check_outer(self, packet):
        version = packet[0] >> 4
        check(version == (6 if self.v6 else 4), f"outer IP version {version}")
        if self.v6:
            source, destination, hops = packet[8:24], packet[24:40], packet[7]
            if self.plan["udp"]:
                pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, socket.IPPROTO_UDP)
                check(internet_checksum(pseudo + packet[40:]) == 0, "wrong UDP checksum")
        else:
            source, destination, hops = packet[12:16], packet[16:20], packet[8]
            check(internet_checksum(packet[:20]) == 0, "wrong IPv4 header checksum")
            if self.plan["udp"]:
                check(packet[26:28] == bytes(2), "a UDP checksum over IPv4 (RFC 3948 s2.1)")
        family = socket.AF_INET6 if self.v6 else socket.AF_INET
        ends = [socket.inet_ntop(family, end) for end in (source, destination)]
        check(ends == [self.plan["local"], self.plan["remote"]], f"outer addresses {ends}")
        check(hops == 64, f"outer TTL {hops}")

    def same(self, found, expected, what):
        check(found == expected, f"{what}: found {found.hex()}, expected {expected.hex()}")


def main():
    conf.verb = 0
    register_algorithms()
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    network = Network(plan)
    for one in plan["cases"]:
        error = None
        try:
            Case(one, network).run()
        except Exception as reason:
            error = f"{type(reason).__name__}: {reason}"
            network.drain()
        print(json.dumps({"name": one["name"], "error": error}), flush=True)


main()
