# Sourced by up, down and node/*: what they start, by pid files in the state directory `$state`, where they are.
running() { # NAME: whether the process of NAME's pid file is the one that was started here; a pid comes back
  local pid
  pid=$(cat "$state/$1.pid" 2>/dev/null) && grep -qaF -- "$state/" "/proc/$pid/cmdline" 2>/dev/null
}
start() { # NAME PROGRAM ARGUMENT... : a session of its own, so that Ctrl-C at the caller's terminal does not end it
  local name=$1; shift
  setsid "$@" > "$state/$name.log" 2>&1 < /dev/null 9>&- &
  echo $! > "$state/$name.pid"
}
end() { # NAME: killed outright; its state is thrown away, and a graceful kube-apiserver waits a minute for its watchers
  if running "$1"; then kill -9 "$(cat "$state/$1.pid")"; fi
  rm -f "$state/$1.pid"
}
kubeconfig_of() { # USER: with the certificates inside, so that the file can be copied anywhere
  cat <<K
apiVersion: v1
kind: Config
clusters:
- name: nodepool
  cluster: {server: "$(cat "$state/server")", certificate-authority-data: $(base64 -w0 < "$state/pki/ca.crt")}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 < "$state/pki/$1.crt"), client-key-data: $(base64 -w0 < "$state/pki/$1.key")}
contexts:
- name: nodepool
  context: {cluster: nodepool, user: $1}
current-context: nodepool
K
}
free_ports() { # COUNT: ports that the kernel says are free, all different
  python3 -c 'import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))' "$1"
}
