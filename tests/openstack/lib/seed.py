"""Fill the lab's cloud: catalogue, service users, projects, quotas, flavors, networks, images, key pair, clouds.yaml.

Every step asks before it makes, so it can be run again. Stages: `identity` needs keystone only, `rest` needs the
APIs, `images` needs Glance, `ready` waits for the workers.
"""
import json
import os
import subprocess
import sys
import time

import requests

E = {k[4:]: v for k, v in os.environ.items() if k.startswith('LAB_')}
LAB = E['DIR']
U = {n: f"http://{E['ADDRESS']}:{E[n.upper() + '_PORT']}" for n in ('keystone', 'glance', 'placement', 'nova', 'neutron')}
V3 = U['keystone'] + '/v3'
PW = E['PASSWORD']
http = requests.Session()
http.trust_env = False


def token(user, project, password=PW):
    r = http.post(V3 + '/auth/tokens', json={'auth': {
        'identity': {'methods': ['password'], 'password': {'user': {
            'name': user, 'domain': {'id': 'default'}, 'password': password}}},
        'scope': {'project': {'name': project, 'domain': {'id': 'default'}}}}})
    r.raise_for_status()
    return r.headers['X-Subject-Token'], r.json()['token']


def call(method, url, body=None, tok=None, ok=(), **headers):
    h = {'X-Auth-Token': tok or TOKEN}
    h.update({k.replace('_', '-'): v for k, v in headers.items()})
    data = None
    if isinstance(body, bytes):
        data = body
    elif body is not None:
        data, h['Content-Type'] = json.dumps(body), h.get('Content-Type', 'application/json')
    r = http.request(method, url, data=data, headers=h)
    if r.status_code >= 400 and r.status_code not in ok:
        sys.exit(f'{method} {url}: {r.status_code} {r.text}')
    return r.json() if r.content and r.headers.get('Content-Type', '').startswith('application/json') else {}


SEEDED = LAB + '/data/seeded'


def ensure(base, plural, singular, name, body=None, query=None, tok=None):
    query = query if query is not None else f'name={name}'
    wanted = {singular: dict({'name': name}, **(body or {}))}
    until = time.monotonic() + 30
    seeded = os.path.exists(SEEDED)
    while True:
        for x in call('GET', f'{base}/{plural}?{query}', tok=tok)[plural]:
            if x['name'] == name:
                return x
        # Neutron that has just started shows nothing and refuses all until it has read its policies. What was made
        # once is waited for: else it is made again when the policies are read between the two calls.
        if seeded and time.monotonic() < until:
            time.sleep(0.5)
            continue
        passing = (403,) if time.monotonic() < until else ()
        made = call('POST', f'{base}/{plural}', wanted, tok=tok, ok=passing)
        if singular in made:
            return made[singular]
        time.sleep(0.5)


def identity():
    services = [('glance', 'image', U['glance']), ('placement', 'placement', U['placement']),
                ('nova', 'compute', U['nova'] + '/v2.1'), ('neutron', 'network', U['neutron'])]
    have = {s['name']: s for s in call('GET', V3 + '/services')['services']}
    ends = {(e['service_id'], e['interface']) for e in call('GET', V3 + '/endpoints')['endpoints']}
    for name, kind, url in services:
        s = have.get(name) or call('POST', V3 + '/services', {'service': {'name': name, 'type': kind}})['service']
        for interface in ('public', 'internal', 'admin'):
            if (s['id'], interface) not in ends:
                call('POST', V3 + '/endpoints', {'endpoint': {
                    'service_id': s['id'], 'interface': interface, 'url': url, 'region': E['REGION']}})
    roles = {r['name']: r['id'] for r in call('GET', V3 + '/roles')['roles']}
    service = ensure(V3, 'projects', 'project', 'service', {'domain_id': 'default'})
    for name in ('glance', 'placement', 'nova', 'neutron'):
        u = ensure(V3, 'users', 'user', name, {'domain_id': 'default', 'password': PW})
        for role in ('admin', 'service'):
            call('PUT', f"{V3}/projects/{service['id']}/users/{u['id']}/roles/{roles[role]}")
    for name in ('ci', 'ci2'):
        p = ensure(V3, 'projects', 'project', name, {'domain_id': 'default'})
        u = ensure(V3, 'users', 'user', name, {'domain_id': 'default', 'password': PW,
                                               'default_project_id': p['id']})
        for role in ('member', 'reader'):
            call('PUT', f"{V3}/projects/{p['id']}/users/{u['id']}/roles/{roles[role]}")


def application_credential():
    path = LAB + '/appcred.json'
    tok, body = token('ci', 'ci')
    base = f"{V3}/users/{body['user']['id']}"
    have = call('GET', base + '/application_credentials', tok=tok)['application_credentials']
    try:
        with open(path) as f:
            old = json.load(f)
        if old['id'] in [a['id'] for a in have]:
            return old
    except FileNotFoundError:
        pass
    for a in have:
        if a['name'] == 'lab':
            call('DELETE', f"{base}/application_credentials/{a['id']}", tok=tok)
    new = call('POST', base + '/application_credentials', {'application_credential': {'name': 'lab'}},
               tok=tok)['application_credential']
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as f:
        json.dump({'id': new['id'], 'secret': new['secret']}, f)
    return {'id': new['id'], 'secret': new['secret']}


def clouds(cred):
    common = f"""    region_name: {E['REGION']}
    identity_api_version: 3
    volume_api_version: 3
    networks:
      - {{name: private, default_interface: true, routes_externally: false, nat_destination: true}}
      - {{name: public, routes_externally: true, nat_source: true}}
"""
    out = 'clouds:\n'
    for cloud, user, project in (('lab-admin', 'admin', 'admin'), ('lab', 'ci', 'ci'), ('lab2', 'ci2', 'ci2')):
        out += (f'  {cloud}:\n    auth:\n      auth_url: {V3}\n      username: {user}\n      password: {PW}\n'
                f'      project_name: {project}\n      user_domain_name: Default\n'
                f'      project_domain_name: Default\n{common}')
    out += (f"  lab-appcred:\n    auth_type: v3applicationcredential\n    auth:\n      auth_url: {V3}\n"
            f"      application_credential_id: {cred['id']}\n      application_credential_secret: {cred['secret']}\n"
            f'{common}')
    with open(os.open(LAB + '/clouds.yaml', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as f:
        f.write(out)


FLAVORS = [  # name, MB, vcpus, GB
    ('nano', 128, 1, 1), ('tiny', 512, 1, 5), ('small', 2048, 1, 20), ('medium', 4096, 2, 40), ('large', 8192, 4, 80),
    ('huge', 64, 1, 10000000)]      # within quota, but fits on no host: "No valid host was found"


def rest():
    nova, net = U['nova'] + '/v2.1', U['neutron'] + '/v2.0'
    have = {f['name'] for f in call('GET', nova + '/flavors')['flavors']}
    for name, ram, vcpus, disk in FLAVORS:
        if name not in have:
            call('POST', nova + '/flavors', {'flavor': {'name': name, 'ram': ram, 'vcpus': vcpus, 'disk': disk}})
    projects = {p['name']: p['id'] for p in call('GET', V3 + '/projects')['projects']}
    for name in ('ci', 'ci2'):
        call('PUT', f'{nova}/os-quota-sets/{projects[name]}', {'quota_set': {
            'instances': int(E['QUOTA_INSTANCES']), 'cores': int(E['QUOTA_CORES']), 'ram': int(E['QUOTA_RAM']),
            'key_pairs': int(E['QUOTA_KEYPAIRS'])}})
    # a network for all projects, whose addresses are loopback addresses
    shared = ensure(net, 'networks', 'network', 'private', {'shared': True, 'port_security_enabled': True})
    subnet = ensure(net, 'subnets', 'subnet', 'private-subnet', {
        'network_id': shared['id'], 'cidr': E['NODE_CIDR'], 'ip_version': 4, 'enable_dhcp': False})
    ext = ensure(net, 'networks', 'network', 'public', {
        'router:external': True, 'provider:network_type': 'flat', 'provider:physical_network': 'ext'})
    ensure(net, 'subnets', 'subnet', 'public-subnet', {
        'network_id': ext['id'], 'cidr': E['FLOATING_CIDR'], 'ip_version': 4, 'enable_dhcp': False})
    router = ensure(net, 'routers', 'router', 'router', {'external_gateway_info': {'network_id': ext['id']}})
    ports = call('GET', f"{net}/ports?device_id={router['id']}")['ports']
    if not any(f['subnet_id'] == subnet['id'] for p in ports for f in p['fixed_ips']):
        call('PUT', f"{net}/routers/{router['id']}/add_router_interface", {'subnet_id': subnet['id']})
    # the projects' default security groups let everything in
    for name in ('ci', 'ci2'):
        tok, _ = token(name, name)
        for g in call('GET', net + '/security-groups?name=default', tok=tok)['security_groups']:
            for proto in ('tcp', 'icmp'):
                call('POST', net + '/security-group-rules', {'security_group_rule': {
                    'security_group_id': g['id'], 'direction': 'ingress', 'ethertype': 'IPv4', 'protocol': proto}},
                    tok=tok, ok=(409,))
        path = LAB + '/id_ed25519'
        if not os.path.exists(path):
            subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'lab', '-f', path], check=True)
        with open(path + '.pub') as f:
            public = f.read().strip()
        old = [k['keypair'] for k in call('GET', nova + '/os-keypairs', tok=tok)['keypairs']
               if k['keypair']['name'] == 'lab-key']
        if old and old[0]['public_key'].strip() != public:
            call('DELETE', nova + '/os-keypairs/lab-key', tok=tok)
            old = []
        if not old:
            call('POST', nova + '/os-keypairs', {'keypair': {'name': 'lab-key', 'public_key': public}}, tok=tok)


def images():
    if E['VIRT'] == 'libvirt':
        return machine_images()
    gl = U['glance'] + '/v2'
    images = {i['name'] for i in call('GET', gl + '/images?visibility=public&limit=200')['images']}
    for name in ('debian-13', 'ubuntu-24.04'):
        if name not in images:
            # random enough for the fake driver; raw, since Glance looks into whatever says qcow2
            i = call('POST', gl + '/images', {'name': name, 'disk_format': 'raw', 'container_format': 'bare',
                                              'visibility': 'public', 'min_disk': 0, 'min_ram': 0,
                                              'os_distro': name.split('-')[0]})
            call('PUT', f"{gl}/images/{i['id']}/file", os.urandom(1 << 20),
                 Content_Type='application/octet-stream')


def machine_images():
    """A Debian that boots in QEMU, by a kernel and a ramdisk that are images of their own."""
    gl, folder, ids = U['glance'] + '/v2', LAB + '/image', {}
    with open(folder + '/version') as f:
        version = f.read().strip()
    have = {}
    for i in call('GET', gl + '/images?visibility=public&limit=200')['images']:
        if i.get('recipe') == version:
            have[i['name']] = i['id']
        else:      # built by an older recipe
            call('DELETE', f"{gl}/images/{i['id']}")
    debian = {'os_distro': 'debian', 'hw_cdrom_bus': 'scsi', 'hw_scsi_model': 'virtio-scsi', 'hw_rng_model': 'virtio',
              'min_disk': 1, 'os_command_line': 'root=/dev/vda console=ttyS0 net.ifnames=0 panic=5 mitigations=off'}
    for name, file, kind in (('kernel', 'vmlinuz', 'aki'), ('ramdisk', 'initrd', 'ari'),
                             ('debian-13', 'root.qcow2', None)):
        if name not in have:
            more = {} if kind else dict(debian, kernel_id=ids['kernel'], ramdisk_id=ids['ramdisk'])
            i = call('POST', gl + '/images', dict({
                'name': name, 'visibility': 'public', 'disk_format': kind or 'qcow2',
                'container_format': kind or 'bare', 'recipe': version}, **more))
            with open(f'{folder}/{file}', 'rb') as f:
                r = http.put(f"{gl}/images/{i['id']}/file", data=f, headers={
                    'X-Auth-Token': TOKEN, 'Content-Type': 'application/octet-stream'})
            if r.status_code != 204:
                call('DELETE', f"{gl}/images/{i['id']}")
                sys.exit(f'{name}: {r.status_code} {r.text}')
            have[name] = i['id']
        ids[name] = have[name]


def ready():
    """Until nova's workers listen on the message bus."""
    import kombu
    want = ['conductor', 'scheduler', 'compute.lab-compute-1']
    end = time.monotonic() + 120
    with kombu.Connection(f"amqp://guest:guest@127.0.0.1:{E['RABBIT_PORT']}//") as bus:
        while want:
            try:
                if bus.channel().queue_declare(want[0], passive=True).consumer_count:
                    want.pop(0)
                    continue
            except Exception as e:      # not declared yet: the broker closes the channel
                if getattr(e, 'code', 0) != 404:
                    raise
            if time.monotonic() > end:
                sys.exit('nobody listens on ' + want[0])
            time.sleep(0.3)


for i in range(20):
    try:
        TOKEN, _ = token('admin', 'admin')
        break
    except requests.RequestException:
        if i == 19:
            raise
        time.sleep(0.5)
for stage in sys.argv[1:]:
    if stage == 'identity':
        identity()
        clouds(application_credential())
    elif stage == 'rest':
        rest()
        open(SEEDED, 'w').close()
    elif stage == 'images':
        images()
    elif stage == 'ready':
        ready()
