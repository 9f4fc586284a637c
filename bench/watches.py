#!/usr/bin/env python3
"""What ten thousand watches at the leader cost the writes, on this machine.

    bench/watches.py [--synod target/release/synod] [--watches 10000] [--rounds 20] [--plain]

Of the watches 100 are on keys that change, the others on keys that never do. 64 clients
write to 1,000 keys at the leader, so a tenth of the writes is watched. The reader has
the lowest priority. Rounds without and with the watches take turns on one cluster; the ratio of the medians counts, and the
median of the ratios of each two is told beside it.
History is kept for a second and not for five minutes: its compaction is most of what nodes do
under such a load, and makes rounds that are alike differ by twice as much. With --plain
neither is done: history is kept as by default, and the reader has the priority of the nodes.
The nodes' CPU time for a write is told as well, which varies less on a busy machine. Fails
if the watches of changing keys saw another number of changes than the leader says it told,
or one of the others saw any. Needs Python 3.9, Linux, a limit of open
files above the number of watches (ulimit -n) and a quiet machine. Prints JSON.
"""
import argparse
import json
import multiprocessing
import os
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys

from harness import Cluster, say, wait_until

KEYS, WATCHED = 1000, 100
SHORT_HISTORY = "[history]\nkeep_ms = 1000\nrevisions_max = 10000\n"


def key(number):
    """As `synod bench throughput` names them."""
    return b"k%031d" % number


def read_all_day(pipe, port, count, priority):
    """The watchers, in a process of their own: they take what comes and count events."""
    # They stand for clients on other machines, which take no core away from a node at the moment
    # when it sends. It is as in a network: what is not taken at once waits in the sockets.
    os.nice(priority)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll, sockets, events, rests = select.epoll(), {}, {}, {}
    for number in range(count):
        # The clients write to all keys in equal shares; the watched ones are the first.
        name = key(number) if number < WATCHED else b"never/%d" % number
        peer = socket.create_connection(("127.0.0.1", port), timeout=30)
        peer.sendall(b"GET /v1/watch?key=%b HTTP/1.1\r\nhost: n\r\n\r\n" % name)
        peer.setblocking(False)
        poll.register(peer, select.EPOLLIN)
        sockets[peer.fileno()], events[peer.fileno()], rests[peer.fileno()] = peer, 0, b""
    begun = set()
    poll.register(pipe.fileno(), select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == pipe.fileno():
                pipe.recv()
                return pipe.send(list(events.values()))
            data = sockets[fd].recv(1 << 16)
            if not data:
                return pipe.send(f"watch {list(sockets).index(fd)} ended")
            # A word may be cut in two by the reads.
            data = rests[fd] + data
            events[fd] += data.count(b"event: put")
            rests[fd] = data[-9:]
            if fd not in begun and b"event: progress" in data:
                begun.add(fd)
                if len(begun) == count:
                    pipe.send("all have begun")


class Watchers:
    def __init__(self, port, count, priority):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=read_all_day, args=(theirs, port, count, priority), daemon=True)
        self.process.start()
        if not self.pipe.poll(120) or self.pipe.recv() != "all have begun":
            sys.exit("not all watches began within 120 s")

    def stop(self):
        self.pipe.send("stop")
        result = self.pipe.recv()
        self.process.join()
        if isinstance(result, str):
            sys.exit(result)
        return result


def cpu_s(processes):
    ticks = 0
    for process in processes:
        with open(f"/proc/{process.pid}/stat") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def write(cluster, leader, seconds):
    processes = cluster.running.values()
    revision, cpu = cluster.status(leader)["revision"], cpu_s(processes)
    path = os.path.join(cluster.folder, "cluster.json")
    with open(path, "w") as file:
        nodes = [{"id": id, "pid": None, "client_url": cluster.url(id)} for id in cluster.running]
        json.dump({"nodes": nodes}, file)
    done = subprocess.run(
        [cluster.synod, "bench", "throughput", "--cluster", path, "--to-node", str(leader), "--keys", str(KEYS),
         "--duration-s", str(seconds), "--warm-up-s", "2", "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the load failed: {done.stderr.strip()}")
    writes = cluster.status(leader)["revision"] - revision
    return {"per_s": round(json.loads(done.stdout)["writes"]["per_s"]), "writes": writes,
            "cpu_us_per_write": round((cpu_s(processes) - cpu) / writes * 1e6, 1)}


def memory_kib(pid):
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def round_with_watches(cluster, leader, arguments):
    pid, before, count = cluster.running[leader].pid, cluster.metrics(leader), arguments.watches
    kib = memory_kib(pid)
    watchers = Watchers(cluster.port + leader, count, 0 if arguments.plain else 19)
    kib = memory_kib(pid) - kib
    readers_cpu_s = cpu_s([watchers.process])
    wrote = write(cluster, leader, arguments.seconds)
    # While the clients wrote: connecting is no part of it.
    readers_cpu_s = cpu_s([watchers.process]) - readers_cpu_s
    told = [0]

    def quiet():
        told.append(cluster.metrics(leader)["watch_events_total"])
        return told[-1] == told[-2]

    wait_until("the last events", quiet, every=0.5)
    events = watchers.stop()
    after = cluster.metrics(leader)
    told = round(after["watch_events_total"] - before["watch_events_total"])
    if sum(events[:WATCHED]) != told or any(events[WATCHED:]):
        sys.exit(f"the leader told {told} changes, the watches saw {sum(events)}")
    return {
        **wrote, "events": told, "lags": round(after["watch_lags_total"] - before["watch_lags_total"]),
        "kib_per_watch": round(kib / count, 1), "readers_cpu_s": round(readers_cpu_s, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--synod", default="target/release/synod")
    parser.add_argument("--watches", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--base-port", type=int, default=23000)
    parser.add_argument("--plain", action="store_true", help="history and the reader's priority as they come")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' data and logs")
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if not WATCHED <= arguments.watches <= limit - 100:
        sys.exit(f"--watches: {WATCHED} to {limit - 100} here (ulimit -n)")
    without, with_watches = [], []
    with Cluster(arguments, [1, 2, 3], "" if arguments.plain else SHORT_HISTORY) as cluster:
        leader = cluster.leader()
        # A cluster is fastest before it has anything to compact: that is no round.
        write(cluster, leader, 30)
        for number in range(arguments.rounds):
            # One order in even rounds, the other in odd ones: a cluster that slows down
            # or warms up favours neither.
            for watched in (False, True) if number % 2 == 0 else (True, False):
                if watched:
                    with_watches.append(round_with_watches(cluster, leader, arguments))
                else:
                    without.append(write(cluster, leader, arguments.seconds))
                say(f"round {number + 1} of {arguments.rounds}: {with_watches[-1] if watched else without[-1]}")
    ratios = lambda what: [row[what] / before[what] for before, row in zip(without, with_watches)]
    medians = [statistics.median(row["per_s"] for row in rows) for rows in (without, with_watches)]
    print(json.dumps({"without": without, "with": with_watches, "medians_per_s": medians,
                      "ratio": round(medians[1] / medians[0], 3),
                      "median_of_pairs": round(statistics.median(ratios("per_s")), 3),
                      "cpu_median_of_pairs": round(statistics.median(ratios("cpu_us_per_write")), 3)}, indent=2))


if __name__ == "__main__":
    main()
