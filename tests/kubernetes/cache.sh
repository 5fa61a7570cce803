# Sourced by scripts that print a directory of programs built of pinned Go modules, once, into the user's cache.

# The name of such a directory says what is inside: a changed pin, program or flag builds into another one.
fingerprint() { sha256sum | cut -c1-12; }

missing_from() { # DIR PROGRAM... : the programs that DIR lacks
  local dir=$1 program; shift
  for program in "$@"; do [ -x "$dir/$program" ] || echo "$program"; done
}

# `go build -v` prints a line for each package it compiles and each module it downloads: counted, not shown.
# On a terminal the count stays on one line; in a log it appears every 20 seconds. Anything else is an error: shown.
progress() {
  local line downloaded=0 compiled=0 shown=0
  while IFS= read -r line; do
    case $line in
      "go: downloading "*) downloaded=$((downloaded + 1)) ;;
      "#"* | *" "* | "") printf '%s\n' "$line" >&2; continue ;;
      *) compiled=$((compiled + 1)) ;;
    esac
    if [ -t 2 ]; then
      printf '\r  %d modules downloaded, %d packages compiled, %d s ' "$downloaded" "$compiled" "$SECONDS" >&2
    elif [ $((SECONDS - shown)) -ge 20 ]; then
      shown=$SECONDS
      printf '  %d modules downloaded, %d packages compiled, %d s\n' "$downloaded" "$compiled" "$SECONDS" >&2
    fi
  done
  if [ -t 2 ]; then echo >&2; fi
}

# in_cache NAME TITLE TIME PROGRAM... : prints the cache's directory NAME, which holds these programs. Where it lacks one,
# `compile DIR` of the calling script makes them all; a build beside this one is waited for.
in_cache() {
  local name=$1 title=$2 time=$3; shift 3
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/nodepool-operator
  local bin=$cache/$name
  if [ -z "$(missing_from "$bin" "$@")" ]; then echo "$bin"; return; fi

  mkdir -p "$cache"
  exec 9> "$bin.lock"
  if ! flock --nonblock 9; then
    echo "Another build of $title is running; waiting for it." >&2
    flock 9
  fi
  if [ -z "$(missing_from "$bin" "$@")" ]; then echo "$bin"; return; fi

  command -v go >/dev/null || { echo "Go is missing: install it (1.26 or newer)." >&2; exit 1; }
  echo "Building $title into $bin (about $time on two cores, once)." >&2
  SECONDS=0
  local part=$bin.part
  rm -rf "$part"
  mkdir -p "$part"
  (compile "$part" 2>&1) | progress
  rm -rf "$bin"
  mv "$part" "$bin"
  echo "Built in $SECONDS s." >&2
  echo "$bin"
}
