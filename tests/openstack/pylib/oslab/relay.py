"""Connections to port 22 of the machines, which are in a network namespace of their own: at the IPv6 link-local address
that a port's MAC address gives. A machine answers from when its sshd first does, until it no longer does.
"""
import ctypes
import ipaddress
import os
import socket
import threading
import time

CLONE_NEWNET = 0x40000000


def link_local(mac):
    m = [int(x, 16) for x in mac.split(':')]
    return str(ipaddress.IPv6Address(bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, *m[3:]])))


def enter():
    """Moves this thread, and no other, into the machines' namespace."""
    with open('/run/netns/' + os.environ['LAB_NETNS']) as f:
        if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), 'setns')


def pump(a, b):
    try:
        while d := a.recv(65536):
            b.sendall(d)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Relay:
    def __init__(self):
        self.macs = {}               # fixed address -> MAC address
        self.alive = {}              # the same, of machines whose sshd answers: an address may be another's by now
        threading.Thread(target=self.probe, daemon=True).start()

    def answering(self):
        macs = self.macs
        return [address for address, mac in list(self.alive.items()) if macs.get(address) == mac]

    @staticmethod
    def connect(mac, limit):
        s = socket.socket(socket.AF_INET6)
        s.settimeout(limit)
        try:
            s.connect((link_local(mac), 22, 0, socket.if_nametoindex('machines')))
            s.settimeout(None)
            return s
        except OSError:
            s.close()
            return None

    def probe(self):
        enter()
        while True:
            for address, mac in list(self.macs.items()):
                if self.alive.get(address) != mac:
                    s = self.connect(mac, 0.7)
                    if s:
                        s.close()
                        self.alive[address] = mac
            time.sleep(0.3)

    def serve(self, address, conn):
        def run():
            enter()
            mac = self.alive.get(address)
            s = self.connect(mac, 5) if mac else None
            if not s:
                self.alive.pop(address, None)
                conn.close()
                return
            threading.Thread(target=pump, args=(conn, s), daemon=True).start()
            pump(s, conn)
            s.close()
            conn.close()
        threading.Thread(target=run, daemon=True).start()
