"""Nova's fake virt driver, with what an operator of machines looks at made real.

Over nova.virt.fake.FakeDriverWithoutFakeNodes:
 - a snapshot uploads bytes, so that the image becomes active in Glance (nova's own leaves it queued for ever);
 - each running instance is a file in $LAB_DIR/nodes; oslab.noded answers ssh on the instance's fixed addresses
   for as long as that file is there, with a host key of the instance and the key pair it was booted with;
 - instances outlive a restart of nova-compute;
 - the console log has the instance's ssh host keys, as cloud-init prints them;
 - $LAB_DIR/faults.json can delay or fail boots, snapshots and deletions (see README.md).
"""
import fnmatch
import io
import json
import os
import time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from nova.compute import power_state
from nova.compute import task_states
from nova import exception
from nova.image import glance
from nova.virt import fake
from oslo_log import log as logging
from oslo_utils import fileutils

LOG = logging.getLogger(__name__)
LAB = os.environ['LAB_DIR']
NODES = os.path.join(LAB, 'nodes')
FAULTS = os.path.join(LAB, 'faults.json')


def _write(path, data):
    with open(path + '.tmp', 'w') as f:
        json.dump(data, f, indent=1)
    os.rename(path + '.tmp', path)


def fault(verb, name, attempt_file=None):
    """The first rule of faults.json for this verb and server name, used up by its count.

    [{"verb": "boot|snapshot|delete", "name": "glob", "delay": seconds, "ssh_delay": seconds, "no_ssh": true,
      "fail": "message", "count": times}, ...]
    """
    try:
        with open(FAULTS) as f:
            rules = json.load(f)
    except (FileNotFoundError, ValueError):
        return {}
    for i, rule in enumerate(rules):
        if rule.get('verb', 'boot') != verb or not fnmatch.fnmatch(name, rule.get('name', '*')):
            continue
        if 'count' in rule:
            used = os.path.join(LAB, 'nodes', '.fault-%d-%d' % (int(os.stat(FAULTS).st_mtime_ns), i))
            n = 0
            try:
                with open(used) as f:
                    n = len(f.read())
            except FileNotFoundError:
                pass
            if n >= rule['count']:
                continue
            with open(used, 'a') as f:
                f.write('x')
        return rule
    return {}


class LabDriver(fake.FakeDriverWithoutFakeNodes):
    capabilities = dict(fake.FakeDriverWithoutFakeNodes.capabilities,
                        supports_image_type_qcow2=True, supports_image_type_raw=True)
    vcpus = int(os.environ['LAB_HOST_VCPUS'])
    memory_mb = int(os.environ['LAB_HOST_RAM_MIB'])
    local_gb = int(os.environ['LAB_HOST_DISK_GB'])

    def __init__(self, virtapi, read_only=False):
        super().__init__(virtapi, read_only)
        self._image_api = glance.API()

    def init_host(self, host):
        super().init_host(host)
        fileutils.ensure_tree(NODES)
        for name in os.listdir(NODES):
            if not name.endswith('.json'):
                continue
            with open(os.path.join(NODES, name)) as f:
                node = json.load(f)
            if node['host'] == host:
                state = power_state.RUNNING if node['running'] else power_state.SHUTDOWN
                self.instances[node['uuid']] = fake.FakeInstance(node['instance'], state, node['uuid'])
                self.resources.claim(**node['claim'])

    # the node's file
    def _path(self, uuid):
        return os.path.join(NODES, uuid + '.json')

    def _node(self, uuid):
        try:
            with open(self._path(uuid)) as f:
                return json.load(f)
        except FileNotFoundError:
            return None

    def _running(self, instance, running):
        node = self._node(instance.uuid)
        if node:
            node['running'] = running
            if running:
                node['boots'] += 1
                node['ssh_at'] = time.time() + fault('boot', node['name']).get('ssh_delay', 0)
            _write(self._path(instance.uuid), node)

    def spawn(self, context, instance, image_meta, injected_files, admin_password, allocations,
              network_info=None, block_device_info=None, power_on=True, accel_info=None):
        rule = fault('boot', instance.display_name)
        if rule.get('delay'):
            time.sleep(rule['delay'])
        if rule.get('fail'):
            raise exception.InstanceDeployFailure(reason=rule['fail'])
        super().spawn(context, instance, image_meta, injected_files, admin_password, allocations,
                      network_info=network_info, block_device_info=block_device_info, power_on=power_on)
        addresses = []
        for vif in network_info or []:
            addresses += [ip['address'] for ip in vif.fixed_ips()]
        old = self._node(instance.uuid)
        if old:
            hostkey, public = old['hostkey'], old['hostkey_public']
        else:
            key = ed25519.Ed25519PrivateKey.generate()
            hostkey = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH,
                                        serialization.NoEncryption()).decode()
            public = key.public_key().public_bytes(serialization.Encoding.OpenSSH,
                                                   serialization.PublicFormat.OpenSSH).decode()
        if not addresses and old:
            addresses = old['addresses']
        _write(self._path(instance.uuid), {
            'uuid': instance.uuid, 'name': instance.display_name, 'hostname': instance.hostname,
            'instance': instance.name, 'host': self._host, 'addresses': addresses,
            'keys': [instance.key_data] if instance.key_data else [], 'user_data': instance.user_data,
            'image': instance.image_ref, 'hostkey': hostkey, 'hostkey_public': public,
            'running': power_on, 'boots': 1 if power_on else 0, 'born': time.time(),
            'ssh_at': 0 if rule.get('no_ssh') else time.time() + rule.get('ssh_delay', 0),
            'no_ssh': bool(rule.get('no_ssh')),
            'claim': {'vcpus': instance.flavor.vcpus, 'mem': instance.flavor.memory_mb,
                      'disk': instance.flavor.root_gb}})

    def destroy(self, context, instance, network_info, block_device_info=None,
                destroy_disks=True, destroy_secrets=True):
        rule = fault('delete', instance.display_name or '')
        if rule.get('delay'):
            time.sleep(rule['delay'])
        if rule.get('fail'):
            raise exception.InstanceTerminationFailure(reason=rule['fail'])
        super().destroy(context, instance, network_info, block_device_info, destroy_disks, destroy_secrets)
        fileutils.delete_if_exists(self._path(instance.uuid))

    def power_off(self, instance, timeout=0, retry_interval=0):
        super().power_off(instance, timeout, retry_interval)
        self._running(instance, False)

    def power_on(self, context, instance, network_info, block_device_info=None, accel_info=None, share_info=None):
        super().power_on(context, instance, network_info, block_device_info, accel_info, share_info)
        self._running(instance, True)

    def snapshot(self, context, instance, image_id, update_task_state):
        if instance.uuid not in self.instances:
            raise exception.InstanceNotRunning(instance_id=instance.uuid)
        rule = fault('snapshot', instance.display_name)
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        if rule.get('delay'):
            time.sleep(rule['delay'])
        if rule.get('fail'):
            raise exception.NovaException(rule['fail'])
        update_task_state(task_state=task_states.IMAGE_UPLOADING,
                          expected_state=task_states.IMAGE_PENDING_UPLOAD)
        name = self._image_api.get(context, image_id)['name']
        body = json.dumps({'snapshot_of': instance.uuid, 'image': instance.image_ref,
                           'node': self._node(instance.uuid)}).encode()
        metadata = {'name': name, 'disk_format': 'raw', 'container_format': 'bare', 'status': 'active',
                    'properties': {'image_location': 'snapshot', 'image_state': 'available',
                                   'owner_id': instance.project_id}}
        self._image_api.update(context, image_id, metadata, io.BytesIO(body.ljust(65536, b'\0')),
                               purge_props=False)

    def get_console_output(self, context, instance):
        node = self._node(instance.uuid)
        if not node:
            # as libvirt's driver says of a machine that is not defined yet
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        lines = ['[    0.000000] Linux version 6.1.0-lab (fake)']
        for n in range(node['boots']):
            lines += ['[    1.000000] lab: boot %d of %s' % (n + 1, node['hostname']),
                      'ci-info: addresses: %s' % ' '.join(node['addresses']),
                      '-----BEGIN SSH HOST KEY KEYS-----',
                      node['hostkey_public'] + ' root@' + node['hostname'],
                      '-----END SSH HOST KEY KEYS-----',
                      'Cloud-init v. lab finished at %s' % time.strftime('%a, %d %b %Y %H:%M:%S +0000',
                                                                       time.gmtime(node['born'])),
                      '', '%s login: ' % node['hostname']]
        return '\n'.join(lines)
