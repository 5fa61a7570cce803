# Settings of the lab; sourced by up, down, status and venv, never run. What lasts is below the user's cache
# folder. Takes `--virt=fake`, `--virt=libvirt` or `--for=pods` off the front of their arguments: which of the labs is meant.
LAB_WHICH=--virt=fake
case ${1:-} in --virt=fake | --virt=libvirt | --for=pods) LAB_WHICH=$1; shift ;; esac
case $LAB_WHICH in --virt=libvirt) LAB_VIRT=libvirt ;; *) LAB_VIRT=fake ;; esac
LAB_HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nodepool-operator
LAB_DIR=openstack
[ "$LAB_WHICH" = --virt=fake ] || LAB_DIR=openstack-${LAB_WHICH#*=}
LAB_DIR=${OPENSTACK_LAB:-$cache/$LAB_DIR}
mkdir -p "$LAB_DIR"/{run,log}
LAB_DIR=$(cd "$LAB_DIR" && pwd)
# A virtual environment for each list of pinned packages: a changed list never meets half of an older one.
LAB_VENV=$cache/openstack-venv-$(sha256sum < "$LAB_HERE/lib/requirements.txt" | cut -c1-12)
export LAB_HERE LAB_DIR LAB_VENV LAB_VIRT

# Where its services are, and what addresses its servers have. Pods have a loopback of their own: for them all is in the
# network that is kept for tests (RFC 2544), which lib/reach.sh makes this machine's own.
if [ "$LAB_WHICH" = --for=pods ]; then
  LAB_ADDRESS=198.18.0.1 LAB_NODE_CIDR=198.19.0.0/17 LAB_FLOATING_CIDR=198.19.128.0/17
else
  LAB_ADDRESS=127.0.0.1 LAB_NODE_CIDR=127.20.0.0/16 LAB_FLOATING_CIDR=127.30.0.0/16
fi
export LAB_ADDRESS LAB_NODE_CIDR LAB_FLOATING_CIDR

# Ports, which the kernel named when this cloud was made: they are in its catalogue and its databases.
[ ! -e "$LAB_DIR/ports" ] || . "$LAB_DIR/ports"

# What is in the cloud.
export LAB_REGION=RegionOne
export LAB_PASSWORD=lab-secret
export LAB_TOKEN_SECONDS=${LAB_TOKEN_SECONDS:-3600}
# How long the services go on believing a token that they have seen.
export LAB_TOKEN_CACHE_SECONDS=${LAB_TOKEN_CACHE_SECONDS:-3}
export LAB_QUOTA_INSTANCES=2000 LAB_QUOTA_CORES=4000 LAB_QUOTA_RAM=2000000 LAB_QUOTA_KEYPAIRS=100
# With a limit, Nova lists all ports of the project at every boot.
export LAB_QUOTA_PORTS=-1

# The one nova-compute; the size is that of a host whose servers need no hypervisor.
export LAB_HOST_VCPUS=1000 LAB_HOST_RAM_MIB=2000000 LAB_HOST_DISK_GB=600000
export LAB_API_THREADS=8
LAB_USER=$(id -un) LAB_GROUP=$(id -gn)
export LAB_USER LAB_GROUP
export LAB_DB_SOCKET=$LAB_DIR/run/mysql.sock

export PYTHONPATH=$LAB_HERE/pylib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export OS_NOVA_CONFIG_DIR=$LAB_DIR/etc/nova OS_KEYSTONE_CONFIG_DIR=$LAB_DIR/etc/keystone
export OS_GLANCE_CONFIG_DIR=$LAB_DIR/etc/glance OS_PLACEMENT_CONFIG_DIR=$LAB_DIR/etc/placement
export OS_NEUTRON_CONFIG_DIR=$LAB_DIR/etc/neutron OS_NEUTRON_CONFIG_FILES='neutron.conf;ml2_conf.ini'
# Nothing here may follow the caller's shell to another cloud.
unset OS_CLOUD OS_AUTH_URL OS_USERNAME OS_PASSWORD OS_TOKEN OS_PROJECT_NAME OS_REGION_NAME
export no_proxy="127.0.0.0/8,localhost,$LAB_ADDRESS${no_proxy:+,$no_proxy}"
