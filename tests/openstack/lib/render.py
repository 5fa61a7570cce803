"""Write the configuration files from templates/: every @NAME@ is the value of the environment's LAB_NAME."""
import os
import re

here, out = os.environ['LAB_HERE'], os.environ['LAB_DIR'] + '/etc'
v = {k[4:]: x for k, x in os.environ.items() if k.startswith('LAB_')}
auth = ('auth_type = password\nauth_url = http://%(ADDRESS)s:%(KEYSTONE_PORT)s/v3\nproject_name = service\n'
        'project_domain_name = Default\nuser_domain_name = Default\npassword = %(PASSWORD)s' % v)
v['AUTH'] = auth
v['AUTHTOKEN'] = auth + ('\nwww_authenticate_uri = http://%(ADDRESS)s:%(KEYSTONE_PORT)s/v3\n'
                         'service_token_roles = service\nservice_token_roles_required = true' % v)
v['AUTHTOKEN'] += '\ntoken_cache_time = %(TOKEN_CACHE_SECONDS)s' % v
machines = v['VIRT'] == 'libvirt'
v['COMPUTE_DRIVER'] = 'oslab.MachineDriver' if machines else 'oslab.LabDriver'
# No metadata service tells a machine what it is.
v['FORCE_CONFIG_DRIVE'] = 'true' if machines else 'false'
v['LIBVIRT_SOCKET'] = v['DIR'] + '/data/libvirt/run/libvirt-sock'
where = {'my.cnf': 'mysql', 'rabbitmq.conf': 'rabbit', 'keystone.conf': 'keystone', 'glance-api.conf': 'glance',
         'placement.conf': 'placement', 'neutron.conf': 'neutron', 'ml2_conf.ini': 'neutron', 'nova.conf': 'nova'}
for name, folder in where.items():
    with open(f'{here}/templates/{name}') as f:
        text = re.sub('@([A-Z0-9_]+)@', lambda m: v[m.group(1)], f.read())
    os.makedirs(f'{out}/{folder}', exist_ok=True)
    path = f'{out}/{folder}/{name}'
    try:
        with open(path) as f:
            same = f.read() == text
    except FileNotFoundError:
        same = False
    if not same:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as f:
            f.write(text)
# nova's wsgi entry wants its paste file beside nova.conf
paste = f'{out}/nova/api-paste.ini'
if not os.path.lexists(paste):
    os.symlink(os.environ['LAB_VENV'] + '/etc/nova/api-paste.ini', paste)
