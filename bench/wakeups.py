#!/usr/bin/env python3
"""How often the threads of the nodes go to sleep for one client's write.

Each sleep ends with a wake-up, which costs more than most of the work between two
of them. Drives a running local cluster with one client at its leader and counts
the voluntary context switches of each thread in /proc.

    synod cluster --fresh &
    bench/wakeups.py [--cluster synod-data/cluster.json] [--synod target/release/synod]
"""
import argparse
import collections
import glob
import json
import subprocess
import time
import urllib.request


def switches(nodes):
    found = {}
    for node in nodes:
        for task in glob.glob(f"/proc/{node['pid']}/task/*"):
            try:
                lines = dict(line.split(":", 1) for line in open(task + "/status") if ":" in line)
            except FileNotFoundError:
                continue
            found[node["id"], lines["Name"].strip(), task] = int(lines["voluntary_ctxt_switches"])
    return found


def revision(node):
    with urllib.request.urlopen(node["client_url"] + "/v1/status", timeout=2) as answer:
        return json.load(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--synod", default="target/release/synod")
    parser.add_argument("--cluster", default="synod-data/cluster.json")
    parser.add_argument("--clients", type=int, default=1)
    arguments = parser.parse_args()
    nodes = json.load(open(arguments.cluster))["nodes"]
    leader = next(node for node in nodes if revision(node)["role"] == "leader")
    command = [
        arguments.synod, "bench", "throughput", "--cluster", arguments.cluster, "--to-leader",
        "--clients", str(arguments.clients), "--duration-s", "7", "--warm-up-s", "1", "--json",
    ]
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(3)
    before, first = switches(nodes), revision(leader)["revision"]
    time.sleep(4)
    after, writes = switches(nodes), revision(leader)["revision"] - first
    load.wait()
    sums = collections.Counter()
    for key, count in after.items():
        role = "leader" if key[0] == leader["id"] else "followers"
        sums[role, key[1]] += count - before.get(key, count)
    print(f"{writes:,} writes of {arguments.clients} client(s); sleeps per write, both followers together")
    for (role, thread), count in sorted(sums.items(), key=lambda item: (item[0][0] != "leader", -item[1])):
        if count / writes >= 0.005:
            print(f"{role:<10} {thread:<16} {count / writes:>6.2f}")
    print(f"{'all':<10} {'':<16} {sum(sums.values()) / writes:>6.2f}")


if __name__ == "__main__":
    main()
