# --virt=libvirt: servers that are machines. libvirtd and QEMU run in a network and mount namespace of their own, so that
# nothing of them is left on this machine. Sourced by up and down; asks nothing of anybody when servers are no machines.
LAB_NETNS=nodepool-$(printf %s "$LAB_DIR" | sha256sum | cut -c1-6)
export LAB_NETNS
MACHINES_DIR=$LAB_DIR/data/libvirt
MACHINE_IMAGE=$LAB_DIR/image # a purge leaves it: it takes a minute to build

with_machines() { [ "$LAB_VIRT" = libvirt ]; }
install_hypervisor() {
  [ "$(id -u)" = 0 ] || die "--virt=libvirt needs root"
  install_packages libvirt-daemon libvirt-daemon-driver-qemu libvirt-dev libvirt-clients qemu-system-x86 qemu-utils \
    genisoimage debootstrap e2fsprogs cpio gzip busybox-static kmod pkg-config iproute2 gcc libc6-dev
}
bind_libvirt() { # libvirt's Python binding, built against Debian's libvirt
  if "$LAB_VENV/bin/python" -c 'import libvirt' 2>/dev/null; then return; fi
  say "building libvirt's Python binding"
  "$LAB_VENV/bin/python" -m pip install -q --disable-pip-version-check -r "$LAB_HERE/lib/requirements-libvirt.txt" \
    >> "$LAB_DIR/log/pip.log" 2>&1 || die "pip failed (log/pip.log)"
}
libvirt_client() { LIBVIRT_DEFAULT_URI="qemu+unix:///system?socket=$MACHINES_DIR/run/libvirt-sock" virsh "$@"; }
has_namespace() { ip netns list | grep -qw "$LAB_NETNS"; }
start_hypervisor() {
  has_namespace || ip netns add "$LAB_NETNS"
  local in=(ip -n "$LAB_NETNS")
  "${in[@]}" link set lo up
  "${in[@]}" link show machines >/dev/null 2>&1 || "${in[@]}" link add machines type bridge
  "${in[@]}" link set machines up
  mkdir -p "$MACHINES_DIR"/{etc/qemu,lib,run,cache,log} "$LAB_DIR/data/nova/instances" \
    /etc/libvirt /var/lib/libvirt /run/libvirt /var/cache/libvirt /var/log/libvirt
  cat > "$MACHINES_DIR/etc/libvirtd.conf" <<'EOF'
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "2:stderr"
EOF
  cat > "$MACHINES_DIR/etc/qemu.conf" <<'EOF'
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
EOF
  # libvirt wants its user to exist, though it uses it for nothing here.
  {
    cat /etc/passwd
    getent passwd libvirt-qemu >/dev/null || echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin'
  } > "$MACHINES_DIR/passwd"
  {
    cat /etc/group
    getent group libvirt-qemu >/dev/null || echo 'libvirt-qemu:x:64055:'
  } > "$MACHINES_DIR/group"
  chmod 644 "$MACHINES_DIR/passwd" "$MACHINES_DIR/group"
  # libvirtd sees folders of this lab where its own would be.
  # shellcheck disable=SC2016
  start libvirtd ip netns exec "$LAB_NETNS" unshare --mount sh -c '
    mount --bind "$0/etc" /etc/libvirt && mount --bind "$0/lib" /var/lib/libvirt &&
    mount --bind "$0/run" /run/libvirt && mount --bind "$0/cache" /var/cache/libvirt &&
    mount --bind "$0/log" /var/log/libvirt && mount --bind "$0/passwd" /etc/passwd &&
    mount --bind "$0/group" /etc/group || exit 1
    exec libvirtd -p "$0/run/libvirtd.pid"' "$MACHINES_DIR"
  wait_for 30 libvirtd libvirt_client version
}
end_machines() { # [--purge]: they go off, as with a host that is shut down; QEMU is no child of libvirtd's session
  local name
  if pid_of libvirtd >/dev/null && [ -S "$MACHINES_DIR/run/libvirt-sock" ]; then
    for name in $(libvirt_client list --name); do libvirt_client destroy "$name" >/dev/null || true; done
    if [ "${1:-}" = --purge ]; then
      for name in $(libvirt_client list --all --name); do
        libvirt_client undefine --nvram "$name" >/dev/null || true
      done
    fi
  fi
  end TERM libvirtd
  if has_namespace; then ip netns delete "$LAB_NETNS"; fi
}
build_machine_image() {
  local recipe=$LAB_HERE/lib/machine-image version
  version=$(sha256sum < "$recipe" | cut -c1-12)
  [ "$(cat "$MACHINE_IMAGE/version" 2>/dev/null)" != "$version" ] || return 0
  say "building the machines' image (a minute, once)"
  rm -rf "$MACHINE_IMAGE"
  bash "$recipe" "$MACHINE_IMAGE" > "$LAB_DIR/log/machine-image.log" 2>&1 9>&- || die "no image (log/machine-image.log)"
  echo "$version" > "$MACHINE_IMAGE/version"
}
