# --for=pods: the services' and the servers' addresses are this machine's own, so that whatever listens on one of them is
# reached from Pods as from here. Sourced by up and down.
for_pods() { [ "$LAB_WHICH" = --for=pods ]; }
make_reachable() {
  [ "$(id -u)" = 0 ] || die "--for=pods needs root"
  install_packages iproute2
  ip address replace "$LAB_ADDRESS/32" dev lo
  ip route replace local "$LAB_NODE_CIDR" dev lo
  ip route replace local "$LAB_FLOATING_CIDR" dev lo
}
end_reachable() {
  local cidr
  for cidr in "$LAB_NODE_CIDR" "$LAB_FLOATING_CIDR"; do
    if [ -n "$(ip route show table local exact "$cidr")" ]; then ip route delete local "$cidr" dev lo; fi
  done
  if [ -n "$(ip address show dev lo to "$LAB_ADDRESS")" ]; then ip address delete "$LAB_ADDRESS/32" dev lo; fi
}
