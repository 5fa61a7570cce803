# Background processes by pid file: `pid starttime`, so that a pid that came back is never taken for ours. Each leads
# a session of its own, and is ended with all its children. Sourced, never run.
started_at() { # PID: in clock ticks since the machine started
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  [ "$1" != Z ] && echo "${20}"
}
pid_of() { # NAME: its pid, while it runs
  local pid='' started=''
  { read -r pid started < "$LAB_DIR/run/$1.pid"; } 2>/dev/null || return 1
  [ -n "$pid" ] && [ "$(started_at "$pid")" = "$started" ] && echo "$pid"
}
start() { # NAME COMMAND...: unless it runs
  local name=$1 pid
  shift
  if pid_of "$name" >/dev/null; then return; fi
  setsid "$@" >> "$LAB_DIR/log/$name.log" 2>&1 < /dev/null 9>&- &
  pid=$!
  echo "$pid $(started_at $pid)" > "$LAB_DIR/run/$name.pid"
}
send() { # SIGNAL NAME
  local pid
  pid=$(pid_of "$2") || return 0
  kill "-$1" -- "-$pid" 2>/dev/null || kill "-$1" "$pid" 2>/dev/null || true
}
end() { # SIGNAL NAME...: the signal to all, ten seconds, then the end of those that are left
  local signal=$1 name left
  shift
  for name; do send "$signal" "$name"; done
  for _ in {1..100}; do
    left=()
    for name; do if pid_of "$name" >/dev/null; then left+=("$name"); fi; done
    [ ${#left[@]} -gt 0 ] || break
    sleep 0.1
  done
  for name in "${left[@]}"; do send KILL "$name"; done
  for name; do rm -f "$LAB_DIR/run/$name.pid"; done
}
say() { printf '%5.1f s  %s\n' "$(awk -v from="$BEGAN" -v to="${EPOCHREALTIME/,/.}" 'BEGIN {print to - from}')" "$*" >&2; }
die() { echo "openstack: $*" >&2; exit 1; }
wait_for() { # SECONDS WHAT COMMAND...
  local what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || die "$what is not up; its log is in $LAB_DIR/log"
    sleep 0.2
  done
}
listens() { (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null; } # PORT [ADDRESS]
