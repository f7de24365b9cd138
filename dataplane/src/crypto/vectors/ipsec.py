#!/usr/bin/env python3
"""Writes ESP and AH packets of another implementation, of every suite.

    ipsec.py > ipsec.txt                            several of each, for the tests
    ipsec.py known-answers > known_answers.txt      one of each, for the self-test at start-up

Needs scapy 2.8 and cryptography. scapy makes whatever it knows; implicit IVs, short GCM ICVs, XCBC and GMAC in AH
are put together here from the primitives of cryptography. Lines:

    esp SUITE ESN SEQUENCE KEY PLAINTEXT PACKET     packet from the SPI to the ICV
    ah  SUITE ESN SEQUENCE KEY ICV_AT PACKET ICV    packet with mutable fields and ICV zero
"""

import struct
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, AUTH_ALGOS, ESP, SecurityAssociation, zero_mutable_fields
from scapy.packet import Raw, raw

SPI = 0xC0FFEE01
KNOWN_ANSWERS = sys.argv[1:] == ["known-answers"]
SEQUENCES = [(True, 0x2_0000_0009)] if KNOWN_ANSWERS else [(False, 7), (True, 0x2_0000_0009), (True, 0xFFFF_FFFF)]
LENGTHS = [3] if KNOWN_ANSWERS else [3, 100]
CIPHERS = {"aes128": ("AES-CBC", 16, 16), "aes192": ("AES-CBC", 24, 16), "aes256": ("AES-CBC", 32, 16),
           "3des": ("3DES", 24, 8), "null": ("NULL", 0, 0)}
MACS = {"sha1": ("HMAC-SHA1-96", 20), "sha256": ("SHA2-256-128", 32), "sha384": ("SHA2-384-192", 48),
        "sha512": ("SHA2-512-256", 64), "aescmac": ("AES-CMAC-96", 16), "aesxcbc": ("AES-XCBC-96", 16)}


class XcbcMac:
    """AES-XCBC-MAC-96 (RFC 3566) in the form of a MAC of cryptography."""

    def __init__(self, key):
        self.key, self.data = key, b""

    def update(self, data):
        self.data += data

    def finalize(self):
        def block(key, value):
            encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
            return encryptor.update(value) + encryptor.finalize()

        k1, k2, k3 = (block(self.key, bytes([n]) * 16) for n in (1, 2, 3))
        data, mask = self.data, k2
        if not data or len(data) % 16:
            data, mask = data + b"\x80" + bytes(-(len(data) + 1) % 16), k3
        state = bytes(16)
        for at in range(0, len(data), 16):
            value = data[at:at + 16]
            if at + 16 == len(data):
                value = bytes(a ^ b for a, b in zip(value, mask))
            state = block(k1, bytes(a ^ b for a, b in zip(value, state)))
        return state


class XcbcAlgo(type(AUTH_ALGOS["NULL"])):
    """XCBC as an integrity algorithm of scapy."""

    def __init__(self):
        super().__init__("AES-XCBC-96", mac=XcbcMac, digestmod=None, icv_size=12)

    def new_mac(self, key):
        return XcbcMac(key)


AUTH_ALGOS["AES-XCBC-96"] = XcbcAlgo()


def key_bytes(length, seed):
    return bytes((seed + 37 * n) % 256 for n in range(length))


def inner(length):
    return IP(src="10.1.0.7", dst="10.2.0.9", ttl=64, id=0x1234) / UDP(sport=4000, dport=5000) / Raw(
        bytes(n % 251 for n in range(length)))


def trailer(payload, align):
    """Payload with the padding and trailer of RFC 4303 s2.4, next header UDP."""
    pad = -(len(payload) + 2) % align
    return payload + bytes(range(1, pad + 1)) + bytes([pad, 17])


def esp_line(suite, esn, sequence, key, plain, packet):
    print("esp", suite, int(esn), sequence, key.hex(), plain.hex(), packet.hex())


def ah_line(suite, esn, sequence, key, icv_at, packet, icv):
    print("ah", suite, int(esn), sequence, key.hex(), icv_at, packet.hex(), icv.hex())


def scapy_esp(suite, crypt, crypt_key, auth, auth_key, iv, align):
    for length in LENGTHS:
        for esn, sequence in SEQUENCES:
            sa = SecurityAssociation(ESP, spi=SPI, crypt_algo=crypt, crypt_key=crypt_key or None, auth_algo=auth,
                                     auth_key=auth_key, esn_en=esn, esn=sequence >> 32)
            packet = sa.encrypt(inner(length), seq_num=sequence & 0xFFFFFFFF, iv=iv(sequence))
            plain = trailer(raw(inner(length)[UDP]), align)
            esp_line(suite, esn, sequence, crypt_key + (auth_key or b""), plain, raw(packet[ESP]))


def counter(sequence):
    return struct.pack("!Q", sequence)


def aead_esp(suite, cipher, key, salt, icv_len, explicit):
    """What scapy does not know: implicit IV (RFC 8750), ICVs of 8 and 12 bytes (RFC 4106 s6)."""
    for length in LENGTHS:
        for esn, sequence in SEQUENCES:
            plain = trailer(raw(inner(length)[UDP]), 4)
            header = struct.pack("!LL", SPI, sequence & 0xFFFFFFFF)
            aad = struct.pack("!LQ", SPI, sequence) if esn else header
            sealed = cipher(key).encrypt(salt + counter(sequence), plain, aad)
            icv = sealed[-16:][:icv_len]
            packet = header + (counter(sequence) if explicit else b"") + sealed[:-16] + icv
            esp_line(suite, esn, sequence, key + salt, plain, packet)


def esp():
    for bits in (128, 192, 256):
        key = key_bytes(bits // 8 + 4, bits % 251)
        scapy_esp(f"aes{bits}gcm16", "AES-GCM", key, None, None, counter, 4)
        scapy_esp(f"aes{bits}gmac", "AES-NULL-GMAC", key, None, None, counter, 4)
        aead_esp(f"aes{bits}gcm16iiv", AESGCM, key[:-4], key[-4:], 16, False)
        aead_esp(f"aes{bits}gcm12", AESGCM, key[:-4], key[-4:], 12, True)
        aead_esp(f"aes{bits}gcm8", AESGCM, key[:-4], key[-4:], 8, True)
    key = key_bytes(36, 5)
    scapy_esp("chacha20poly1305", "CHACHA20-POLY1305", key, None, None, counter, 4)
    aead_esp("chacha20poly1305iiv", ChaCha20Poly1305, key[:-4], key[-4:], 16, False)
    for cipher, (crypt, key_len, block) in CIPHERS.items():
        for mac, (auth, mac_len) in MACS.items():
            scapy_esp(f"{cipher}-{mac}", crypt, key_bytes(key_len, 11), auth, key_bytes(mac_len, 13),
                      lambda _: key_bytes(block, 17), block or 4)


def ah_packets(auth, auth_key, esn, sequence):
    ipv6 = IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9) / UDP(sport=1, dport=2) / Raw(b"abc")
    for packet in [inner(3)] if KNOWN_ANSWERS else [inner(50), ipv6]:
        sa = SecurityAssociation(AH, spi=SPI, auth_algo=auth, auth_key=auth_key, esn_en=esn, esn=sequence >> 32)
        yield sa.encrypt(packet, seq_num=sequence & 0xFFFFFFFF)


def ah():
    for mac, (auth, mac_len) in MACS.items():
        key = key_bytes(mac_len, 19)
        for esn, sequence in SEQUENCES:
            for signed in ah_packets(auth, key, esn, sequence):
                icv = raw(signed[AH].icv)
                icv_at = (20 if signed.version == 4 else 40) + 12
                ah_line(mac, esn, sequence, key, icv_at, raw(zero_mutable_fields(signed.copy())), icv)
    for bits in (128, 192, 256):
        key = key_bytes(bits // 8 + 4, 23)
        for esn, sequence in SEQUENCES:
            # The IP packet need only look like one: IPv4 header and AH of 12 + 8 + 16 bytes, IV included.
            addresses = bytes([10, 1, 0, 7, 10, 2, 0, 9])
            header = struct.pack("!BBHHHBBH8s", 0x45, 0, 96, 1, 0, 0, 51, 0, addresses)
            start = header + struct.pack("!BBHLL", 17, 7, 0, SPI, sequence & 0xFFFFFFFF)
            payload = bytes(range(40))
            authenticated = start + counter(sequence) + bytes(16) + payload
            tail = struct.pack("!L", sequence >> 32) if esn else b""
            tag = AESGCM(key[:-4]).encrypt(key[-4:] + counter(sequence), b"", authenticated + tail)
            packet = start + bytes(24) + payload
            ah_line(f"ah-aes{bits}gmac", esn, sequence, key, len(start), packet, counter(sequence) + tag)


esp()
ah()
