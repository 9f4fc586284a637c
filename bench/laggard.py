#!/usr/bin/env python3
"""What a follower that stood still for a minute costs, and how soon it is back.

Starts a cluster of three, finds its capacity at 64 clients, then sends 80 % of
that at a fixed rate: a minute undisturbed, a minute with one follower stopped
(SIGSTOP), and a minute after it goes on. Says how many slots it lacks each second
and what the writes per second were.

    bench/laggard.py [--synod target/release/synod] [--seconds 60]

Needs Python 3.9 and a quiet machine. Prints JSON with --json.
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request


def fetch(url):
    with urllib.request.urlopen(url, timeout=2) as answer:
        return json.load(answer)


def wait_until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = condition()
            if found:
                return found
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"{what}: not within {seconds} s")


def throughput(synod, cluster_file, *options):
    command = [synod, "bench", "throughput", "--cluster", cluster_file, "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def result(process):
    out, _ = process.communicate()
    if process.returncode != 0:
        sys.exit("the load failed")
    return json.loads(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--synod", default="target/release/synod")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--base-port", type=int, default=23000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = tempfile.mkdtemp(prefix="synod-laggard-", dir=".")
    command = [arguments.synod, "cluster", "--data-dir", data, "--base-port", str(arguments.base_port)]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stopped = None
    try:
        cluster_file = os.path.join(data, "cluster.json")
        wait_until("cluster.json", lambda: os.path.exists(cluster_file))
        nodes = json.load(open(cluster_file))["nodes"]
        statuses = lambda: {n["id"]: fetch(n["client_url"] + "/v1/status") for n in nodes}
        leads = lambda: [i for i, s in statuses().items() if s["role"] == "leader"]
        leader = wait_until("a leader", leads)[0]
        follower = next(node for node in nodes if node["id"] != leader)
        to_leader = ["--to-node", str(leader)]
        capacity = result(throughput(arguments.synod, cluster_file, "--duration-s", "10", *to_leader))
        rate = capacity["writes"]["per_s"] * 0.8
        seconds = arguments.seconds
        load = throughput(
            arguments.synod, cluster_file, "--rate", f"{rate:.0f}", "--warm-up-s", "0",
            "--duration-s", str(3 * seconds + 5), *to_leader,
        )
        start = time.monotonic()
        url = lambda i: next(n["client_url"] for n in nodes if n["id"] == i) + "/v1/status"
        behind, writes = [], []
        revision = fetch(url(leader))["revision"]
        for second in range(1, 3 * seconds + 1):
            if second == seconds + 1:
                os.kill(follower["pid"], signal.SIGSTOP)
                stopped = follower["pid"]
            if second == 2 * seconds + 1:
                os.kill(follower["pid"], signal.SIGCONT)
                stopped = None
            time.sleep(max(0.0, start + second - time.monotonic()))
            status = fetch(url(leader))
            writes.append(status["revision"] - revision)
            revision = status["revision"]
            if stopped is None:
                behind.append((second, status["applied_slot"] - fetch(url(follower["id"]))["applied_slot"]))
        load = result(load)
        phases = [writes[:seconds], writes[seconds:2 * seconds], writes[2 * seconds:]]
        medians = [statistics.median(phase) for phase in phases]
        caught_up = next((s - 2 * seconds for s, slots in behind if s > 2 * seconds and slots < 1000), None)
        answer = {
            "capacity_per_s": round(capacity["writes"]["per_s"]),
            "rate_per_s": round(rate),
            "median_per_s": {"before": medians[0], "stopped": medians[1], "catching_up": medians[2]},
            "worst_second": {"before": min(phases[0]), "stopped": min(phases[1]), "catching_up": min(phases[2])},
            "seconds_until_within_1000_slots": caught_up,
            "slots_behind_at_the_end": behind[-1][1],
            "slots_behind": [slots for second, slots in behind if second > 2 * seconds],
            "latency_us": load["writes"]["latency"],
        }
    finally:
        if stopped is not None:
            os.kill(stopped, signal.SIGCONT)
        runner.send_signal(signal.SIGINT)
        runner.wait()
        shutil.rmtree(data, ignore_errors=True)
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return
    print(f"capacity at 64 clients   {answer['capacity_per_s']:>9,}/s")
    print(f"load                     {answer['rate_per_s']:>9,}/s")
    for name, of in answer["median_per_s"].items():
        worst = answer["worst_second"][name]
        print(f"{name.replace('_', ' '):<24} {of:>9,.0f}/s   worst second {worst:>9,}/s")
    print(f"within 1,000 slots after {answer['seconds_until_within_1000_slots']} s")
    print(f"behind at the end        {answer['slots_behind_at_the_end']:>9,} slots")


if __name__ == "__main__":
    main()
