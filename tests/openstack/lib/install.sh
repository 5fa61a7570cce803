# Debian's packages and the virtual environment. Asks no registry when all is there. Sourced by up and venv.
install_packages() { # PACKAGE...
  local missing=() package policy=/usr/sbin/policy-rc.d made=
  for package; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "not root; please install: ${missing[*]}"
  say "installing ${missing[*]}"
  # The packages' own daemons must not start.
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
    made=1
  fi
  local result=0
  (
    umask 022
    export DEBIAN_FRONTEND=noninteractive
    # Somebody else may be installing.
    wait=(-o DPkg::Lock::Timeout=300)
    apt-get update "${wait[@]}" && apt-get install "${wait[@]}" -y --no-install-recommends "${missing[@]}"
  ) >> "$LAB_DIR/log/apt.log" 2>&1 || result=$?
  [ -z "$made" ] || rm -f $policy
  [ $result = 0 ] || die "apt-get failed (log/apt.log): ${missing[*]}"
}
fits() { # PYTHON: of a version that the pinned packages know, with headers
  "$1" -c 'import os, sys, sysconfig, venv, ensurepip
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13) and os.path.exists(sysconfig.get_paths()["include"] + "/Python.h")))' 2>/dev/null
}
fill_venv() {
  [ ! -e "$LAB_VENV/complete" ] || return 0
  (
    # Two at once would each remove what the other has installed.
    flock 8
    [ -e "$LAB_VENV/complete" ] || make_venv
  ) 8> "$LAB_VENV.lock"
}
make_venv() {
  # Some of the packages are built here.
  if ! command -v gcc >/dev/null || [ ! -e /usr/include/stdlib.h ]; then install_packages gcc libc6-dev; fi
  local python
  for python in python3.11 python3.12 python3.13 python3; do fits $python && break; done
  if ! fits $python; then
    install_packages python3-venv python3-dev
    python=/usr/bin/python3
    fits $python || die "no Python from 3.11 to 3.13 with venv and headers"
  fi
  say "installing OpenStack and its clients from PyPI (two minutes, once)"
  rm -rf "$LAB_VENV"
  $python -m venv "$LAB_VENV"
  "$LAB_VENV/bin/python" -m pip install -q --disable-pip-version-check -r "$LAB_HERE/lib/requirements.txt" \
    >> "$LAB_DIR/log/pip.log" 2>&1 || die "pip failed (log/pip.log)"
  touch "$LAB_VENV/complete"
}
