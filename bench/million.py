#!/usr/bin/env python3
"""What a million keys of 32 bytes with values of 256 bytes cost, on this machine.

    bench/million.py [--synod target/release/synod] [--keys 1000000]

Three nodes with settings as they come. The keys are loaded by `synod batch`, listed at each node by
`synod list --ndjson`, and then by eight clients at a time that take nothing for some seconds. At
last all nodes are killed with SIGKILL and started at once. Prints JSON: times in seconds, and the
most memory that each node (VmHWM) and each client ever had, in MiB. Fails if a listing does not
have all keys. Needs Python 3.9, Linux and a quiet machine.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import time

from harness import Cluster, now, say, wait_until

LAZY = 8


def peaks(cluster):
    """The most that each node ever had, in MiB."""
    def peak(process):
        with open(f"/proc/{process.pid}/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
    return [peak(cluster.running[id]) for id in sorted(cluster.running)]


def timed(command, **pipes):
    """How long it took, what it had of memory at the most, and how many lines it wrote."""
    begin, process, lines = now(), subprocess.Popen(command, **pipes), 0
    if process.stdout:
        while part := process.stdout.read(1 << 20):
            lines += part.count(b"\n")
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = code
    if code:
        sys.exit(f"{command[1]} failed")
    return {"s": round(now() - begin, 1), "client_mib": used.ru_maxrss // 1024, "lines": lines}


def listing(cluster, id):
    command = [cluster.synod, "list", "--ndjson", "--endpoints", cluster.url(id)]
    return timed(command, stdout=subprocess.PIPE)


def lazy_readers(cluster, id):
    """They ask for all keys, and take nothing for three seconds."""
    sockets = []
    for _ in range(LAZY):
        peer = socket.create_connection(("127.0.0.1", cluster.port + id), timeout=60)
        peer.sendall(b"GET /v1/kv?prefix= HTTP/1.1\r\nhost: n\r\naccept: application/x-ndjson\r\nconnection: close\r\n\r\n")
        sockets.append(peer)
    time.sleep(3)
    for peer in sockets:
        while peer.recv(1 << 20):
            pass
        peer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--synod", default="target/release/synod")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--base-port", type=int, default=23600)
    parser.add_argument("--keep", action="store_true", help="keep the nodes' data and logs")
    arguments = parser.parse_args()
    steps = []

    def step(name, **told):
        steps.append({"step": name, **told, "nodes_mib": peaks(cluster)})
        say(steps[-1])

    with Cluster(arguments, [1, 2, 3]) as cluster:
        step("started")
        path = os.path.join(cluster.folder, "million.ndjson")
        with open(path, "w") as file:
            for number in range(arguments.keys):
                file.write(f'{{"op":"put","key":"{number:032}","value":"{f"{number:016}" * 16}"}}\n')
        urls = ",".join(map(cluster.url, (1, 2, 3)))
        step("load", **timed([cluster.synod, "batch", "--quiet", path, "--endpoints", urls]))
        os.remove(path)
        cluster.settle()
        for id in (1, 2, 3, 1):
            listed = listing(cluster, id)
            if listed["lines"] < arguments.keys:
                sys.exit(f"node {id} listed {listed['lines']} keys")
            step(f"list at node {id}", **listed)
        lazy_readers(cluster, 1)
        step(f"{LAZY} lazy lists at node 1")
        for id in (1, 2, 3):
            cluster.running[id].kill()
            cluster.gone(id)
        begin = now()
        for id in (1, 2, 3):
            cluster.serve(id)
        wait_until("all nodes are ready", lambda: all(map(cluster.ready, (1, 2, 3))), every=0.02)
        step("killed, started at once, ready", s=round(now() - begin, 2))
        step("list at node 2 then", **listing(cluster, 2))
    print(json.dumps(steps, indent=2))


if __name__ == "__main__":
    main()
