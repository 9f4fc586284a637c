#!/usr/bin/env python3
"""What clients notice of the events in the life of a cluster, on this machine.

    bench/life.py transfer    the leader hands over again and again
    bench/life.py grow        1 -> 3 -> 5 -> 3 -> 1 nodes
    bench/life.py snapshot    a follower fetches the whole state while clients write
    bench/life.py away        a follower misses two million writes and comes back
    bench/life.py restart     each node in turn is stopped and started again, the leader, too
    bench/life.py stall       the leader's disk takes no more syncs (needs strace)
    bench/life.py compact     a long history is forgotten at once
    bench/life.py all         all of these, one after the other

Starts nodes of its own in a temporary folder in the current one, which should be on a
real disk. Needs Python 3.9, Linux and a quiet machine. bench/README.md says what the
figures mean. Prints JSON with --json; --quick only tries whether everything works.
"""
import argparse
import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from harness import CLIENTS, Bench, Cluster, Load, now, say, wait_until

# No journal is kept for a follower that is away for more than three seconds. The daily
# reading of the disk would come into some of the windows.
NO_TAIL = "[scrub]\ninterval_s = 0\n[snapshot]\ntail_bytes_max = 0\ntail_ms_max = 0\nkeep_for_peers_ms = 3000\n"


def transfer(arguments):
    events, count = [], 5 if arguments.quick else 30
    with Cluster(arguments, [1, 2, 3]) as cluster:
        load, start = Load(cluster, [1, 2, 3]), now()
        for number in range(count):
            leader, refused = cluster.leader(), None
            to, begin = leader % 3 + 1, now()
            try:
                body = json.dumps({"to": to}).encode()
                urllib.request.urlopen(cluster.url(leader) + "/v1/cluster/transfer", body, 10).close()
            except urllib.error.HTTPError as error:
                refused = error.read().decode()
            events.append((begin, round((now() - begin) * 1000, 1), f"{leader}->{to}", refused))
            say(f"transfer {number + 1} of {count}: {events[-1][1:]}")
            time.sleep(max(0, begin + 1 - now()))
        end, sync = now(), cluster.slowest_sync_ms()
        load.stop()
    rows = [{
        "who": who, "silence": load.silence(begin, begin + 0.2), "answered_ms": took, "refused": refused,
        "undisturbed": load.silence(begin + 0.6, begin + 0.8), "errors": load.seen(begin, begin + 1)["errors"],
    } for begin, took, who, refused in events]
    return {"silence_ms_median_worst": spread(rows, "silence"), "undisturbed_ms_median_worst": spread(rows, "undisturbed"),
            "whole_run": load.seen(start, end), "slowest_sync_ms": sync, "transfers": rows}


def spread(rows, name):
    return [f([row[name]["ms"] for row in rows]) for f in (statistics.median, max)] if rows else None


def restart(arguments):
    rounds, marks = 1 if arguments.quick else 5, []
    with Cluster(arguments, [1, 2, 3]) as cluster:
        load, start = Load(cluster, [1, 2, 3]), now()
        for _ in range(rounds):
            for id in (1, 2, 3):
                leads, begin = cluster.leader() == id, now()
                code = cluster.stop(id)
                if code:
                    sys.exit(f"node {id} was stopped and ended with {code}")
                stopped = now()
                cluster.serve(id)
                wait_until(f"node {id} is ready", lambda: cluster.ready(id))
                marks.append((id, leads, begin, stopped, now()))
                say(f"node {id}{' (leader)' if leads else ''}: stopped in {stopped - begin:.2f} s, "
                    f"ready after {now() - begin:.2f} s")
                time.sleep(1)
                # As clients that look anew where to go; those of this node had gone to others.
                load.write_to([1, 2, 3])
                time.sleep(1)
        end, sync = now(), cluster.slowest_sync_ms()
        load.stop()
        lost, equal = read_back(cluster, load, 1), cluster.equal_states()
    rows = [{
        "node": id, "led": leads, "stop_s": round(stopped - begin, 2), "ready_s": round(ready - begin, 2),
        "silence": load.silence(begin, ready), "undisturbed": load.silence(ready, ready + 0.9),
        "errors": load.seen(begin, ready + 1)["errors"],
    } for id, leads, begin, stopped, ready in marks]
    whole = load.seen(start, end)
    return {"silence_ms_median_worst": spread(rows, "silence"),
            "of_leaders_ms_median_worst": spread([row for row in rows if row["led"]], "silence"),
            "undisturbed_ms_median_worst": spread(rows, "undisturbed"), "client_errors": sum(whole["errors"].values()),
            "lost_keys": lost, "equal_states": equal, "whole_run": whole, "slowest_sync_ms": sync, "restarts": rows}


@contextlib.contextmanager
def stalled(pid):
    """No sync that this process begins meanwhile returns, and none fails."""
    calls, held = "fdatasync,fsync", f"/proc/{pid}/task"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}",
               "-e", f"inject={calls}:delay_enter=600000000", "-p", str(pid)]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def traced(thread):
        with contextlib.suppress(OSError), open(f"{held}/{thread}/status") as file:
            return "TracerPid:\t0\n" not in file.read()
        return True

    try:
        wait_until("all threads are held", lambda: all(map(traced, os.listdir(held))), every=0.001)
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def stall(arguments):
    rounds, marks = 2 if arguments.quick else 10, []
    with Cluster(arguments, [1, 2, 3]) as cluster:
        load = Load(cluster, [1, 2, 3])
        for number in range(rounds):
            leader = cluster.leader()
            others = [id for id in cluster.running if id != leader]
            begin = now()
            with stalled(cluster.running[leader].pid):
                held = now()
                lead = lambda: any(cluster.status(id)["role"] == "leader" for id in others)
                wait_until("another leads", lead, every=0.005)
                marks.append((leader, begin, held, now()))
                time.sleep(1)
            say(f"round {number + 1} of {rounds}: another led {marks[-1][3] - held:.3f} s after the disk stood still")
            wait_until(f"node {leader} is well again", lambda: cluster.ready(leader))
            load.write_to([1, 2, 3])
            time.sleep(1)
        load.stop()
        lost, equal = read_back(cluster, load, 1), cluster.equal_states()
    rows = [{
        "leader": leader, "held_ms": round((held - begin) * 1000, 1), "other_led_ms": round((led - held) * 1000, 1),
        "silence": load.silence(begin, led + 1), "undisturbed": load.silence(begin - 0.9, begin),
        "errors": load.seen(begin, led + 1)["errors"],
    } for leader, begin, held, led in marks]
    led = [row["other_led_ms"] for row in rows]
    return {"other_led_ms_median_worst": [statistics.median(led), max(led)],
            "silence_ms_median_worst": spread(rows, "silence"), "lost_keys": lost, "equal_states": equal, "stalls": rows}


def read_back(cluster, load, id):
    """How many acknowledged keys are not there, or with another value."""
    seen = [bytearray(count) for count, _ in load.keys]
    accept = {"Accept": "application/x-ndjson"}
    request = urllib.request.Request(cluster.url(id) + "/v1/kv?prefix=life/", headers=accept)
    with urllib.request.urlopen(request, timeout=60) as lines:
        for record in map(json.loads, lines):
            _, client, number = record["key"].split("/")
            # The write that was under way at the end may be there, too.
            if int(number) < len(seen[int(client)]) and record["value"].rstrip() == record["key"]:
                seen[int(client)][int(number)] = 1
    for marks, (_, failed) in zip(seen, load.keys):
        for number in failed:
            marks[number] = 1
    return sum(marks.count(0) for marks in seen)


class Growing:
    """A cluster whose members change under load, and when each change was made."""

    def __init__(self, cluster, seconds):
        self.cluster, self.seconds, self.members, self.steps = cluster, seconds, [1], []
        self.load = Load(cluster, [1])

    @contextlib.contextmanager
    def step(self, name):
        begin = now()
        yield
        self.steps.append((name, begin, now(), self.cluster.slowest_sync_ms()))
        say(f"{name}: {now() - begin:.1f} s")

    def stay(self):
        with self.step(f"{len(self.members)} nodes"):
            time.sleep(self.seconds)

    def add(self, id):
        cluster = self.cluster
        cluster.configure(id, [id])
        with self.step(f"add {id}"):
            cluster.member("add", "--config", cluster.config(id))
            cluster.serve(id)
            wait_until(f"node {id} catches up", lambda: cluster.ready(id))
        with self.step(f"promote {id}"):
            promote = lambda: cluster.member("promote", str(id), may_be_refused=True)
            wait_until(f"node {id} is promoted", promote)
        self.members.append(id)
        self.load.write_to(self.members)

    def remove(self, what, id):
        self.members.remove(id)
        self.load.write_to(self.members)
        with self.step(f"remove {what} {id}"):
            self.cluster.member("remove", str(id), "--force")
            code = self.cluster.gone(id)
        if code != 4:
            sys.exit(f"node {id} was removed and ended with {code}")


def grow(arguments):
    with Cluster(arguments, [1]) as cluster:
        run = Growing(cluster, 1 if arguments.quick else 5)
        load = run.load
        run.stay()
        for new in [(2, 3), (4, 5)]:
            for id in new:
                run.add(id)
            run.stay()
        for _ in range(2):
            run.remove("leader", cluster.leader())
            leader = cluster.leader()
            run.remove("follower", next(id for id in run.members if id != leader))
            run.stay()
        load.stop()
        say("reading all back")
        lost = read_back(cluster, load, run.members[0])
    rows = [{"step": name, "seconds": round(end - begin, 1), **load.seen(begin, end), "slowest_sync_so_far_ms": sync}
            for name, begin, end, sync in run.steps]
    return {"whole_run": load.seen(run.steps[0][1], run.steps[-1][2]), "acknowledged": len(load.times),
            "lost_keys": lost, "steps": rows}


def fill(cluster, leader, megabytes):
    """Values that do not compress, under keys that nobody writes again."""
    def some(first):
        connection = http.client.HTTPConnection("127.0.0.1", cluster.port + leader, timeout=30)
        for number in range(first, megabytes * 64, 8):
            connection.request("PUT", f"/v1/kv/fill/{number:08}", os.urandom(16384))
            connection.getresponse().read()
    threads = [threading.Thread(target=some, args=(first,), daemon=True) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def undisturbed(cluster, leader, seconds):
    cluster.settle()
    bench = Bench(cluster, leader, CLIENTS, 100_000)
    # Asks as often, and as much, as while a node comes back.
    bench.until("the end of the window", lambda: cluster.metrics(leader) and bench.clock() > seconds)
    bench.stop()
    return bench


def disturbed(cluster, leader, follower):
    cluster.settle()
    applied = cluster.status(follower)["applied_slot"]
    cluster.stop(follower)
    bench = Bench(cluster, leader, CLIENTS, 100_000)
    bench.leave_behind(cluster, applied, lambda: bench.clock() > 12)
    times, size = bench.bring_back(cluster, follower)
    bench.stop()
    if cluster.leader() != leader:
        sys.exit("another node leads now: the figures cannot be compared")
    return bench, times, size


def compared(before, run, after):
    """The windows of one round: all begin as long after the load as with the transfer."""
    bench, times, size = run
    window, down = (times["coming"], times["here"]), (2, times["started"])
    ready, both = (times["coming"], times["ready"]), [before, after]
    plain = [other.per_s(*window) for other in both]
    to_plain = lambda span: round(bench.per_s(*span) / statistics.mean(other.per_s(*span) for other in both), 3)
    return {
        "before": plain[0], "during": bench.per_s(*window), "after": plain[1],
        "ratio": to_plain(window), "ratio_until_ready": to_plain(ready),
        "follower_down": bench.per_s(*down), "before_at_that_time": before.per_s(*down),
        "ratio_to_down": round(bench.per_s(*window) / bench.per_s(*down), 3), **times, **size,
    }


def snapshot(arguments):
    rounds, megabytes = (1, 64) if arguments.quick else (5, 400)
    with Cluster(arguments, [1, 2, 3], NO_TAIL) as cluster:
        leader = cluster.leader()
        follower, rows = leader % 3 + 1, []
        fill(cluster, leader, megabytes)
        # The first one is not counted: it says how long the windows will be.
        length = disturbed(cluster, leader, follower)[1]["ready"] * 1.3 + 8
        before = undisturbed(cluster, leader, length)
        for number in range(rounds):
            run = disturbed(cluster, leader, follower)
            after = undisturbed(cluster, leader, max(length, run[1]["ready"] + 1))
            rows.append(compared(before, run, after))
            before = after
            say(f"round {number + 1} of {rounds}: {rows[-1]}")
        sync, equal = cluster.slowest_sync_ms(), cluster.equal_states()
    ratios = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name.startswith("ratio")}
    return {**ratios, "equal_states": equal, "slowest_sync_ms": sync, "rounds": rows}


def away(arguments):
    wanted = 100_000 if arguments.quick else 2_000_000
    with Cluster(arguments, [1, 2, 3], NO_TAIL) as cluster:
        leader = cluster.leader()
        follower = leader % 3 + 1
        status = cluster.status(follower)
        cluster.stop(follower)
        bench = Bench(cluster, leader, 256, wanted // 2)
        missed = lambda: bench.revision() - status["revision"]
        bench.leave_behind(cluster, status["applied_slot"], lambda: missed() >= wanted)
        bench.stop()
        count = missed()
        say(f"{count:,} writes were missed")
        bench = Bench(cluster, leader, CLIENTS, wanted // 2)
        bench.until("some seconds of load", lambda: bench.clock() > 3)
        times, size = bench.bring_back(cluster, follower)
        bench.stop()
        equal = cluster.equal_states()
    after = {f"{name}_after_s": round(at - times["started"], 2) for name, at in times.items() if name != "started"}
    return {"missed": count, **after, **size, "equal_states": equal,
            "per_s_meanwhile": bench.per_s(times["started"], times["ready"])}


def compact(arguments):
    """1,000 keys are written again and again, and rounds in which nearly all of the history is forgotten in
    the middle take turns with others. Nothing is forgotten by itself."""
    seconds, count, rounds = (2, 1, []) if arguments.quick else (10, 8, [])
    keep = "[history]\nkeep_ms = 86400000\nrevisions_max = 100000000\n"
    with Cluster(arguments, [1, 2, 3], keep) as cluster:
        leader = cluster.leader()
        path = os.path.join(cluster.folder, "cluster.json")
        with open(path, "w") as file:
            nodes = [{"id": id, "pid": None, "client_url": cluster.url(id)} for id in cluster.running]
            json.dump({"nodes": nodes}, file)
        command = [cluster.synod, "bench", "throughput", "--cluster", path, "--to-node", str(leader), "--keys", "1000",
                   "--duration-s", str(seconds), "--warm-up-s", "2", "--json"]

        def write(forgets):
            load = cluster.load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            forgotten = 0
            if forgets:
                time.sleep(2 + seconds / 2)
                status = cluster.status(leader)
                upto = status["revision"] - 1000
                body = json.dumps({"revision": upto}).encode()
                with urllib.request.urlopen(cluster.url(leader) + "/v1/compact", body, 10) as answer:
                    forgotten = json.load(answer)["compacted_revision"] - write.kept_from
                write.kept_from += forgotten
            told, _ = load.communicate()
            if load.returncode:
                sys.exit("the load failed")
            writes = json.loads(told)["writes"]
            return {"per_s": round(writes["per_s"]), "forgotten": forgotten,
                    **{f"{name}_ms": round(writes["latency"][f"{name}_us"] / 1000, 1) for name in ("p50", "p999", "max")}}

        write.kept_from = 0
        write(False)
        for number in range(count):
            for forgets in (False, True) if number % 2 == 0 else (True, False):
                rounds.append(write(forgets))
                say(f"compact {number + 1} of {count}: {rounds[-1]}")
        cluster.load = None
        equal = cluster.equal_states()
    of = lambda forgets, name: statistics.median(row[name] for row in rounds if (row["forgotten"] > 0) == forgets)
    return {"ratio_of_medians": round(of(True, "per_s") / of(False, "per_s"), 3),
            "per_s_without_with": (of(False, "per_s"), of(True, "per_s")),
            "p999_ms_without_with": (of(False, "p999_ms"), of(True, "p999_ms")),
            "slowest_ms_without_with": (of(False, "max_ms"), of(True, "max_ms")), "equal_states": equal, "rounds": rounds}


def show(name, answer):
    """Single figures first, then a line for each event."""
    print(f"\n{name}")
    short = lambda of: of["ms"] if isinstance(of, dict) and "ms" in of else of
    for key, value in answer.items():
        print(f"  {key.replace('_', ' '):<28}", "" if isinstance(value, list) and isinstance(value[0], dict) else value)
        for row in value if isinstance(value, list) and isinstance(value[0], dict) else []:
            print("   ", "  ".join(f"{name}={short(of)}" for name, of in row.items() if of not in (None, {})))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    modes = {"transfer": transfer, "grow": grow, "snapshot": snapshot, "away": away, "restart": restart, "stall": stall,
             "compact": compact}
    parser.add_argument("mode", choices=[*modes, "all"])
    parser.add_argument("--synod", default="target/release/synod")
    parser.add_argument("--base-port", type=int, default=23200)
    parser.add_argument("--quick", action="store_true", help="small; the figures are worth nothing")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' folders, with their logs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    if os.getloadavg()[0] > 0.5:
        say(f"other programs run or ran (load {os.getloadavg()[0]:.1f}): the figures will be worse than they are")
    answers = {}
    for name in modes if arguments.mode == "all" else [arguments.mode]:
        say(f"--- {name}")
        answers[name] = modes[name](arguments)
        if not arguments.json:
            show(name, answers[name])
    if arguments.json:
        print(json.dumps(answers, indent=2))
    wrong = [name for name, answer in answers.items() if answer.get("lost_keys") or answer.get("equal_states") is False]
    if wrong:
        sys.exit(f"keys are lost or states differ: {', '.join(wrong)}")
    if answers.get("restart", {}).get("client_errors"):
        sys.exit("clients saw errors while nodes were restarted in order")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
