"""The fake nodes' ssh: one listening socket for each address of each running instance, and `sshd -i` for each
connection, with the instance's own host key and authorized keys.

Fixed and floating addresses are this machine's own (127.0.0.0/8, or what lib/reach.sh makes so). The floating ones are read from neutron's database: a listener on the floating address is the instance's.

Where servers are machines, what listens on an address is a relay to the machine's own sshd (relay.py).
"""
import ipaddress
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time

LAB = os.environ['LAB_DIR']
NODES = LAB + '/nodes'
RUN = LAB + '/run/nodes'
PORT = int(os.environ['LAB_NODE_SSH_PORT'])
NETWORKS = [ipaddress.ip_network(os.environ[f'LAB_{name}_CIDR']) for name in ('NODE', 'FLOATING')]
SSHD = shutil.which('sshd', path='/usr/sbin:/usr/local/sbin:/sbin:' + os.environ.get('PATH', ''))


def query(sql):
    import pymysql
    try:
        db = pymysql.connect(unix_socket=os.environ['LAB_DB_SOCKET'], user='root', database='neutron',
                             connect_timeout=2)
    except pymysql.Error:
        return None
    try:
        with db.cursor() as c:
            c.execute(sql)
            return dict(c.fetchall())
    except pymysql.Error:
        return None
    finally:
        db.close()


FLOATING = """select floating_ip_address, fixed_ip_address from floatingips where fixed_ip_address is not null"""
MACS = """select a.ip_address, p.mac_address from ipallocations a join ports p on a.port_id = p.id
          where p.device_owner like 'compute:%'"""


class Daemon:
    def __init__(self):
        self.sel = selectors.DefaultSelector()
        self.listeners = {}          # address -> (socket, owner)
        self.children = {}           # pid -> (uuid, Popen)
        self.nodes = {}              # uuid -> (mtime, node)
        self.floats = {}
        self.relay = None
        if os.environ['LAB_VIRT'] == 'libvirt':
            from oslab.relay import Relay
            self.relay = Relay()
        shutil.rmtree(RUN, ignore_errors=True)
        os.makedirs(RUN, mode=0o700)

    def scan(self):
        seen = {}
        for entry in os.scandir(NODES):
            if not entry.name.endswith('.json'):
                continue
            uuid = entry.name[:-5]
            try:
                mtime = entry.stat().st_mtime_ns
                if uuid in self.nodes and self.nodes[uuid][0] == mtime:
                    seen[uuid] = self.nodes[uuid]
                    continue
                with open(entry.path) as f:
                    seen[uuid] = (mtime, json.load(f))
            except FileNotFoundError:
                continue
            if uuid in self.nodes and self.nodes[uuid][1]['boots'] != seen[uuid][1]['boots']:
                self.drop(uuid)      # a reboot ends its connections
        for uuid in set(self.nodes) - set(seen):
            self.drop(uuid)
            shutil.rmtree(f'{RUN}/{uuid}', ignore_errors=True)
        self.nodes = seen
        now = time.time()
        want = {}
        for uuid, (_, node) in seen.items():
            if not node['running']:
                self.drop(uuid)
                continue
            if node['no_ssh'] or node['ssh_at'] > now:
                continue
            for address in node['addresses']:
                want[address] = uuid
        for address in (self.relay.answering() if self.relay else ()):
            want[address] = 'machine:' + address
        for public, fixed in self.floats.items():
            if fixed in want:
                want[public] = want[fixed]
        for address in [a for a, (_, o) in self.listeners.items() if want.get(a) != o]:
            sock, _ = self.listeners.pop(address)
            self.sel.unregister(sock)
            sock.close()
        for address, owner in want.items():
            if address in self.listeners or not any(ipaddress.ip_address(address) in network for network in NETWORKS):
                continue
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address, PORT))
            except OSError as e:
                print(f'{address}:{PORT}: {e}', flush=True)
                sock.close()
                continue
            sock.listen(16)
            sock.setblocking(False)
            self.listeners[address] = (sock, owner)
            self.sel.register(sock, selectors.EVENT_READ, address)

    def drop(self, uuid):
        for pid, (owner, child) in list(self.children.items()):
            if owner == uuid and child.poll() is None:
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def config(self, node):
        folder = f'{RUN}/{node["uuid"]}'
        if not os.path.exists(folder + '/sshd_config'):
            os.makedirs(folder, exist_ok=True)
            with open(os.open(folder + '/host_key', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as f:
                f.write(node['hostkey'])
            with open(folder + '/authorized_keys', 'w') as f:
                f.write('\n'.join(node['keys']) + '\n')
            with open(folder + '/sshd_config', 'w') as f:
                f.write(f'HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n'
                        'UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n'
                        'KbdInteractiveAuthentication no\nPrintMotd no\nLogLevel ERROR\nSubsystem sftp internal-sftp\n'
                        f'SetEnv LAB_SERVER_ID={node["uuid"]}\n')
        return folder + '/sshd_config'

    def accept(self, address):
        sock, owner = self.listeners[address]
        try:
            conn, _ = sock.accept()
        except OSError:
            return
        conn.setblocking(True)
        if owner.startswith('machine:'):
            self.relay.serve(owner.removeprefix('machine:'), conn)
            return
        try:
            node = self.nodes[owner][1]
            command = [SSHD, '-i', '-e', '-f', self.config(node)]
            if os.geteuid() == 0:        # a host name of its own
                command = ['unshare', '--uts', 'sh', '-c', 'hostname "$0" 2>/dev/null; exec "$@"',
                           node['hostname']] + command
            child = subprocess.Popen(command, stdin=conn, stdout=conn, start_new_session=True)
            self.children[child.pid] = (owner, child)
        finally:
            conn.close()

    def run(self):
        next_scan = next_float = 0
        while True:
            now = time.monotonic()
            if now >= next_float:
                found = query(FLOATING)
                self.floats = self.floats if found is None else found
                if self.relay:
                    found = query(MACS)
                    self.relay.macs = self.relay.macs if found is None else found
                next_float = now + 1
            if now >= next_scan:
                self.scan()
                for pid, (_, child) in list(self.children.items()):
                    if child.poll() is not None:
                        del self.children[pid]
                next_scan = time.monotonic() + 0.2
            for key, _ in self.sel.select(0.2):
                if key.data in self.listeners:
                    self.accept(key.data)


if __name__ == '__main__':
    os.makedirs(NODES, exist_ok=True)
    if os.geteuid() == 0:
        os.makedirs('/run/sshd', mode=0o755, exist_ok=True)     # sshd's privilege separation folder
    daemon = Daemon()

    def stop(*_):
        for owner, _ in list(daemon.children.values()):
            daemon.drop(owner)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    daemon.run()
