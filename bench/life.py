#!/usr/bin/env python3
"""What clients notice of the events in the life of a cluster, on this machine.

    bench/life.py transfer    the leader hands over again and again
    bench/life.py grow        1 -> 3 -> 5 -> 3 -> 1 nodes
    bench/life.py snapshot    a follower fetches the whole state while clients write
    bench/life.py away        a follower misses two million writes and comes back
    bench/life.py all         all of these, one after the other

Starts nodes of its own in a temporary folder in the current one, which should be on a
real disk. Needs Python 3.9, Linux and a quiet machine. bench/README.md says what the
figures mean. Prints JSON with --json; --quick tries whether all of it works.
"""
import argparse
import array
import bisect
import collections
import contextlib
import gc
import http.client
import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

CLIENTS = 64
# No journal is kept for a follower that is away.
NO_TAIL = "[snapshot]\ntail_bytes_max = 0\ntail_ms_max = 0\nkeep_for_peers_ms = 0\n"
now = time.monotonic


def say(text):
    print(text, file=sys.stderr, flush=True)


def wait_until(what, condition, seconds=120, every=0.05):
    end = now() + seconds
    while now() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            found = condition()
            if found:
                return found
        time.sleep(every)
    sys.exit(f"{what}: not within {seconds} s")


class Cluster:
    """Nodes of our own, as processes of `synod serve`. Gone with the `with` block."""

    def __init__(self, arguments, ids, settings=""):
        self.synod, self.port, self.settings = arguments.synod, arguments.base_port, settings
        self.keep, self.running = arguments.keep, {}
        self.folder = tempfile.mkdtemp(prefix="synod-life-", dir=".")
        self.first = ids

    def __enter__(self):
        try:
            for id in self.first:
                self.configure(id, self.first)
                self.run("init", "--config", self.config(id))
                self.serve(id)
            wait_until("a leader", self.leader)
            wait_until("all nodes are ready", lambda: all(map(self.ready, self.first)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.terminate()
        for id, process in self.running.items():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                say(f"node {id} did not stop within 20 s and is killed")
                process.kill()
                process.wait()
        if self.keep:
            say(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def config(self, id):
        return os.path.join(self.folder, f"node-{id}.toml")

    def url(self, id):
        return f"http://127.0.0.1:{self.port + id}"

    def configure(self, id, members):
        peer = lambda of: f"127.0.0.1:{self.port + 10 + of}"
        text = f'node_id = {id}\ndata_dir = "data-{id}"\n[cluster]\nid = "{"5a" * 16}"\n'
        text += f'[client]\nlisten = "127.0.0.1:{self.port + id}"\n[peer]\nlisten = "{peer(id)}"\n'
        text += self.settings
        for of in members:
            text += f'[[members]]\nid = {of}\npeer = "{peer(of)}"\nclient_url = "{self.url(of)}"\n'
        with open(self.config(id), "w") as file:
            file.write(text)

    def run(self, *words, may_be_refused=False):
        done = subprocess.run([self.synod, *words], capture_output=True, text=True)
        if done.returncode == 3 and may_be_refused:
            return False
        if done.returncode != 0:
            sys.exit(f"synod {' '.join(words)}: {done.stderr.strip()}")
        return True

    def member(self, *words, **options):
        endpoints = ",".join(map(self.url, self.running))
        return self.run("member", *words, "--endpoints", endpoints, **options)

    def serve(self, id):
        with open(os.path.join(self.folder, f"node-{id}.log"), "a") as log:
            command = [self.synod, "serve", "--config", self.config(id)]
            # A session of its own: Ctrl-C is for this script, which then stops the nodes.
            self.running[id] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def stop(self, id):
        self.running[id].terminate()
        self.gone(id)

    def gone(self, id):
        code = self.running[id].wait(60)
        del self.running[id]
        return code

    def fetch(self, id, path, timeout=5):
        with urllib.request.urlopen(self.url(id) + path, timeout=timeout) as answer:
            return answer.read()

    def status(self, id):
        return json.loads(self.fetch(id, "/v1/status"))

    def metric(self, id, name):
        page = self.fetch(id, "/metrics").decode()
        return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"synod_{name} "))

    def ready(self, id):
        # A refusal (503) is an OSError, too.
        with contextlib.suppress(OSError):
            return bool(self.fetch(id, "/readyz") or True)
        return False

    def leader(self):
        return next((id for id in self.running if self.status(id)["role"] == "leader"), None)

    def slowest_sync_ms(self):
        return round(max(self.metric(id, "journal_sync_us_max") for id in self.running) / 1000, 1)

    def settle(self):
        """Waits until nothing is flushed or compacted any more on any node."""
        quiet = 0

        def idle():
            nonlocal quiet
            states = [self.status(id) for id in self.running]
            busy = [self.metric(id, "state_running_jobs") + self.metric(id, "state_pending_compaction_bytes")
                    for id in self.running]
            same = len({state["applied_slot"] for state in states}) == 1
            durable = all(state["durable_slot"] >= state["applied_slot"] for state in states)
            quiet = quiet + 1 if same and durable and not any(busy) else 0
            return quiet >= 4

        wait_until("compaction comes to its end", idle, 300, 0.5)
        os.sync()

    def equal_states(self):
        """Whether all have the same state hash, after the same slots."""
        def same_slot():
            states = [self.status(id) for id in self.running]
            return states if len({state["applied_slot"] for state in states}) == 1 else None
        states = wait_until("all have applied the same slots", same_slot)
        return len({state["state_hash"] for state in states}) == 1


class Client:
    def __init__(self, number):
        self.number, self.next, self.failed = number, 0, []
        self.socket, self.port, self.plan, self.sent, self.rest = None, None, -1, 0.0, b""


class Writers:
    """The clients, in a process of their own: each puts one new key after the other, over
    one connection, and goes on to the next node after an error."""

    def __init__(self, pipe, ports):
        self.pipe, self.ports, self.plan = pipe, ports, 0
        self.poll, self.by_fd, self.asleep = select.epoll(), {}, []
        self.times, self.errors, self.stalls = array.array("d"), [], []
        self.clients = [Client(number) for number in range(CLIENTS)]

    def connect(self, client):
        self.disconnect(client)
        if client.plan != self.plan or client.port not in self.ports:
            client.plan, client.port = self.plan, self.ports[client.number % len(self.ports)]
        client.socket = socket.create_connection(("127.0.0.1", client.port), timeout=1)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.socket.setblocking(False)
        self.by_fd[client.socket.fileno()] = client
        self.poll.register(client.socket, select.EPOLLIN)

    def disconnect(self, client):
        if client.socket is not None:
            del self.by_fd[client.socket.fileno()]
            client.socket.close()
        client.socket, client.rest, client.sent = None, b"", 0.0

    def send(self, client):
        if client.socket is None or client.plan != self.plan:
            try:
                self.connect(client)
            except OSError:
                return self.fail(client, "no connection")
        key = b"life/%02d/%08d" % (client.number, client.next)
        client.sent = now()
        try:
            client.socket.send(b"PUT /v1/kv/%b HTTP/1.1\r\nhost: n\r\ncontent-length: 256\r\n\r\n%b" % (key, key.ljust(256)))
        except OSError:
            self.fail(client, "connection lost")

    def fail(self, client, what):
        """Such a write may have had its effect or not: its key is not used again."""
        self.errors.append((now(), what))
        if client.sent:
            client.failed.append(client.next)
            client.next += 1
        self.disconnect(client)
        others = [port for port in self.ports if port > (client.port or 0)] or self.ports
        client.port = others[0]
        self.asleep.append((now() + 0.005, client))

    def receive(self, client):
        try:
            data = client.rest + client.socket.recv(65536)
        except OSError:
            data = client.rest
        if len(data) == len(client.rest):
            return self.fail(client, "connection lost")
        end = data.find(b"\r\n\r\n")
        at = data.find(b"content-length: ", 0, max(end, 0))
        if end < 0 or len(data) < end + 4 + int(data[at + 16:data.find(b"\r", at)]):
            client.rest = data
            return None
        client.rest = b""
        if data[9:10] != b"2":
            kind = data.partition(b"urn:synod:")[2].partition(b'"')[0].decode()
            return self.fail(client, f"{data[9:12].decode()} {kind}")
        self.times.append(now())
        client.next += 1
        client.sent = 0.0
        if data.find(b"connection: close", 0, end) >= 0:
            self.disconnect(client)
        return self.send(client)

    def run(self):
        gc.disable()
        self.poll.register(self.pipe.fileno(), select.EPOLLIN)
        for client in self.clients:
            self.send(client)
        last = now()
        while True:
            events = self.poll.poll(0.002)
            if now() - last > 0.005:
                # We ourselves were slow or did not run: no silence of the cluster.
                self.stalls.append((last, now()))
            last = now()
            for fd, _ in events:
                if fd == self.pipe.fileno():
                    ports = self.pipe.recv()
                    if ports is None:
                        return self.tell()
                    self.ports, self.plan = ports, self.plan + 1
                elif fd in self.by_fd:
                    self.receive(self.by_fd[fd])
            due, self.asleep = self.asleep, []
            for when, client in due:
                self.send(client) if when <= last else self.asleep.append((when, client))
            for client in self.clients:
                if client.sent and last - client.sent > 6:
                    self.fail(client, "no answer within 6 s")

    def tell(self):
        keys = [(client.next, client.failed) for client in self.clients]
        self.pipe.send((self.times, self.errors, self.stalls, keys))


def write_all_day(pipe, ports):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Writers(pipe, ports).run()


class Load:
    """The writers as seen from outside; after `stop` what they saw."""

    def __init__(self, cluster, ids):
        self.cluster = cluster
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=write_all_day, args=(theirs, self.ports(ids)), daemon=True)
        self.process.start()
        theirs.close()

    def ports(self, ids):
        return [self.cluster.port + id for id in ids]

    def write_to(self, ids):
        self.pipe.send(self.ports(ids))
        time.sleep(0.3)

    def stop(self):
        self.pipe.send(None)
        self.times, self.errors, self.stalls, self.keys = self.pipe.recv()
        self.process.join()

    def silence(self, begin, end):
        """The longest interval reaching beyond `begin`, but not `end`, without any
        acknowledgement, as `synod bench failover` has it."""
        first, last = bisect.bisect_right(self.times, begin), bisect.bisect_right(self.times, end)
        times = self.times[max(first - 1, 0):last]
        times.append(end)
        length, at = max(((b - a, a) for a, b in zip(times, times[1:])), default=(end - begin, begin))
        ours = sum(max(0, min(b, at + length) - max(a, at)) for a, b in self.stalls)
        return {"ms": round(length * 1000, 1), "of_it_the_load_stood_ms": round(ours * 1000, 1), "at": at}

    def per_s(self, begin, end):
        count = bisect.bisect_right(self.times, end) - bisect.bisect_right(self.times, begin)
        return round(count / (end - begin))

    def errors_of(self, begin, end):
        return dict(collections.Counter(what for when, what in self.errors if begin <= when < end))


def transfer(arguments):
    count, events = 5 if arguments.quick else 30, []
    with Cluster(arguments, [1, 2, 3]) as cluster:
        load = Load(cluster, [1, 2, 3])
        time.sleep(3)
        start = now()
        for number in range(count):
            leader = wait_until("a leader", cluster.leader)
            to, begin, refused = leader % 3 + 1, now(), None
            body = json.dumps({"to": to}).encode()
            try:
                urllib.request.urlopen(cluster.url(leader) + "/v1/cluster/transfer", body, timeout=10).close()
            except urllib.error.HTTPError as error:
                refused = error.read().decode()
            events.append((begin, now() - begin, f"{leader} -> {to}", refused))
            say(f"transfer {number + 1} of {count}: {leader} -> {to}, answered after {(now() - begin) * 1000:.1f} ms")
            time.sleep(max(0, begin + 1 - now()))
        end, sync = now(), cluster.slowest_sync_ms()
        load.stop()
    rows = [{
        "who": who, "answered_ms": round(took * 1000, 1), "refused": refused,
        "silence": load.silence(begin, begin + 0.5), "undisturbed": load.silence(begin + 0.5, begin + 1),
        "errors": load.errors_of(begin, begin + 1),
    } for begin, took, who, refused in events]
    spread = lambda of: {"median_ms": statistics.median(of), "worst_ms": max(of)}
    return {
        "silence": spread([row["silence"]["ms"] for row in rows]),
        "undisturbed": spread([row["undisturbed"]["ms"] for row in rows]),
        "answered": spread([row["answered_ms"] for row in rows]),
        "errors": load.errors_of(start, end), "refused": sum(row["refused"] is not None for row in rows),
        "per_s": load.per_s(start, end), "slowest_sync_ms": sync, "transfers": rows,
    }


def read_back(cluster, load, id):
    """How many acknowledged keys are not there, or with another value."""
    seen = [bytearray(count) for count, _ in load.keys]
    request = urllib.request.Request(
        cluster.url(id) + "/v1/kv?prefix=life/", headers={"Accept": "application/x-ndjson"})
    with urllib.request.urlopen(request, timeout=60) as lines:
        for line in lines:
            record = json.loads(line)
            _, client, number = record["key"].split("/")
            # The write under way when the clients stopped may be there, too.
            if int(number) < len(seen[int(client)]) and record["value"].rstrip() == record["key"]:
                seen[int(client)][int(number)] = 1
    for marks, (_, failed) in zip(seen, load.keys):
        for number in failed:
            marks[number] = 1
    return sum(marks.count(0) for marks in seen)


def grow(arguments):
    seconds, steps = 1 if arguments.quick else 5, []
    with Cluster(arguments, [1]) as cluster:
        load, members = Load(cluster, [1]), [1]
        time.sleep(2)

        @contextlib.contextmanager
        def step(name):
            begin = now()
            yield
            steps.append((name, begin, now(), cluster.slowest_sync_ms()))
            say(f"{name}: {now() - begin:.1f} s")

        def stay():
            with step(f"{len(members)} nodes"):
                time.sleep(seconds)

        def add(id):
            cluster.configure(id, [id])
            with step(f"add {id}"):
                cluster.member("add", "--config", cluster.config(id))
                cluster.serve(id)
                wait_until(f"node {id} catches up", lambda: cluster.ready(id), 300, 0.1)
            with step(f"promote {id}"):
                wait_until(f"node {id} is promoted", lambda: cluster.member(
                    "promote", str(id), may_be_refused=True), 300, 0.1)
                members.append(id)
                load.write_to(members)

        def remove(id, what):
            with step(f"remove {what} {id}"):
                members.remove(id)
                load.write_to(members)
                cluster.member("remove", str(id))
                code = cluster.gone(id)
            if code != 4:
                sys.exit(f"node {id} was removed and ended with {code}")

        stay()
        for new in [(2, 3), (4, 5)]:
            for id in new:
                add(id)
            stay()
        for _ in range(2):
            remove(wait_until("a leader", cluster.leader), "leader")
            leader = wait_until("a leader", cluster.leader)
            remove(next(id for id in members if id != leader), "follower")
            stay()
        load.stop()
        say("reading all back")
        lost = read_back(cluster, load, members[0])
    begin, end = steps[0][1], steps[-1][2]
    rows = [{
        "step": name, "seconds": round(to - since, 1), "per_s": load.per_s(since, to),
        "silence": load.silence(since, to), "errors": load.errors_of(since, to), "slowest_sync_so_far_ms": sync,
    } for name, since, to, sync in steps]
    return {
        "silence": load.silence(begin, end), "errors": load.errors_of(begin, end), "acknowledged": len(load.times),
        "lost_keys": lost, "steps": rows,
    }


class Bench:
    """`synod bench throughput` until it is ended. The nodes count the writes."""

    def __init__(self, cluster, leader, clients, keys):
        nodes = [{"id": id, "pid": process.pid, "client_url": cluster.url(id)} for id, process in cluster.running.items()]
        path = os.path.join(cluster.folder, "cluster.json")
        with open(path, "w") as file:
            json.dump({"nodes": nodes}, file)
        command = [cluster.synod, "bench", "throughput", "--cluster", path, "--to-node", str(leader), "--json",
                   "--clients", str(clients), "--keys", str(keys), "--duration-s", "900", "--warm-up-s", "1"]
        self.log = os.path.join(cluster.folder, "bench.log")
        self.cluster, self.leader, self.series, self.ends = cluster, leader, [], threading.Event()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        first = cluster.status(leader)["revision"]
        wait_until("the first writes", lambda: cluster.status(leader)["revision"] > first + clients)
        self.start = now()
        self.sampler = threading.Thread(target=self.sample, daemon=True)
        self.sampler.start()

    def sample(self):
        while not self.ends.wait(0.1):
            with contextlib.suppress(OSError):
                before, status = now(), self.cluster.status(self.leader)
                self.series.append(((before + now()) / 2 - self.start, status["revision"]))

    def since(self):
        return now() - self.start

    def stop(self):
        failed = self.process.poll() is not None
        self.process.terminate()
        self.process.wait()
        self.ends.set()
        self.sampler.join()
        if failed:
            with open(self.log) as log:
                sys.exit(f"the load ended by itself: {log.read()[-2000:]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.ends.is_set():
            self.process.kill()
            self.process.wait()
            self.ends.set()

    def per_s(self, begin, end):
        inside = [point for point in self.series if begin <= point[0] <= end]
        if len(inside) < 2:
            return None
        (a, first), (b, last) = inside[0], inside[-1]
        return round((last - first) / (b - a))


def fill(cluster, leader, megabytes):
    """Values that do not compress, under keys that nobody writes again."""
    def some(thread):
        connection = http.client.HTTPConnection("127.0.0.1", cluster.port + leader, timeout=30)
        for number in range(thread, megabytes * 64, 8):
            connection.request("PUT", f"/v1/kv/fill/{number:08}", os.urandom(16384))
            connection.getresponse().read()
    threads = [threading.Thread(target=some, args=(thread,), daemon=True) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def come_back(cluster, bench, id):
    """Starts the node and says when the state began to come, was there, and the node was ready."""
    since, total = bench.since(), 0
    cluster.serve(id)

    def part():
        nonlocal total
        total = cluster.status(id).get("snapshot", {}).get("bytes_total", 0)
        return total

    wait_until("a state is coming", part, 60, 0.02)
    begin = bench.since()
    wait_until("the state is here", lambda: cluster.metric(id, "snapshots_installed_total") == 1, 300)
    end = bench.since()
    wait_until("the node is ready", lambda: cluster.ready(id), 300)
    return {"started": since, "coming": begin, "here": end, "ready": bench.since(), "bytes": total}


def miss_writes(cluster, id, applied, enough):
    """Waits until there are enough writes, and nobody's journal goes back to the node's last slot."""
    others = [other for other in cluster.running if other != id]
    wait_until("writes, and journals that are cut", lambda: enough() and all(
        cluster.status(other)["truncated_slot"] > applied + 1 for other in others), 600, 0.2)


def snapshot(arguments):
    rounds, megabytes = (1, 64) if arguments.quick else (5, 400)
    with Cluster(arguments, [1, 2, 3], NO_TAIL) as cluster:
        leader = cluster.leader()
        follower = leader % 3 + 1
        fill(cluster, leader, megabytes)
        keys = 100_000

        def undisturbed(seconds):
            cluster.settle()
            with Bench(cluster, leader, CLIENTS, keys) as bench:
                time.sleep(seconds)
                bench.stop()
            return bench

        def disturbed():
            cluster.settle()
            applied = cluster.status(follower)["applied_slot"]
            cluster.stop(follower)
            with Bench(cluster, leader, CLIENTS, keys) as bench:
                miss_writes(cluster, follower, applied, lambda: bench.since() > 12)
                times = come_back(cluster, bench, follower)
                time.sleep(1)
                bench.stop()
            if cluster.leader() != leader:
                sys.exit("another node leads now: the figures cannot be compared")
            return bench, times

        # A first one says how long they take, and is not counted.
        bench, times = disturbed()
        length, runs = times["ready"] + 10, []
        plain = [undisturbed(length)]
        for number in range(rounds):
            runs.append(disturbed())
            plain.append(undisturbed(max(length, runs[-1][1]["ready"] + 1)))
            say(f"round {number + 1} of {rounds}: {runs[-1][1]}")
        sync, equal = cluster.slowest_sync_ms(), cluster.equal_states()
    rows = []
    for number, (bench, times) in enumerate(runs):
        window, beginning = (times["coming"], times["here"]), (2, times["started"])
        around = [plain[number].per_s(*window), plain[number + 1].per_s(*window)]
        mean, down, during = statistics.mean(around), bench.per_s(*beginning), bench.per_s(*window)
        rows.append({
            "before": around[0], "during": during, "after": around[1], "follower_down": down,
            "three_up_at_that_time": plain[number].per_s(*beginning), "catching_up": bench.per_s(times["here"], times["ready"]),
            "ratio": round(during / mean, 3), "ratio_to_down": round(during / down, 3),
            "seconds": round(times["here"] - times["coming"], 1), "bytes": times["bytes"],
            "ready_after_s": round(times["ready"] - times["started"], 1),
        })
    middle = lambda name: statistics.median(row[name] for row in rows)
    return {"ratio": middle("ratio"), "ratio_to_down": middle("ratio_to_down"), "equal_states": equal,
            "slowest_sync_ms": sync, "rounds": rows}


def away(arguments):
    wanted = 100_000 if arguments.quick else 2_000_000
    with Cluster(arguments, [1, 2, 3], NO_TAIL) as cluster:
        leader = cluster.leader()
        follower = leader % 3 + 1
        status = cluster.status(follower)
        cluster.stop(follower)
        keys, revision = wanted // 2, lambda: cluster.status(leader)["revision"] - status["revision"]
        with Bench(cluster, leader, 256, keys) as bench:
            miss_writes(cluster, follower, status["applied_slot"], lambda: revision() >= wanted)
            bench.stop()
        missed = revision()
        say(f"{missed:,} writes were missed")
        with Bench(cluster, leader, CLIENTS, keys) as bench:
            time.sleep(3)
            times = come_back(cluster, bench, follower)
            bench.stop()
        equal = cluster.equal_states()
    after = lambda name: round(times[name] - times["started"], 1)
    return {"missed": missed, "bytes": times["bytes"], "coming_after_s": after("coming"), "here_after_s": after("here"),
            "ready_after_s": after("ready"), "per_s_meanwhile": bench.per_s(times["started"], times["ready"]),
            "equal_states": equal}


def show(name, answer):
    """The figures as text: single ones first, then what came of each event as a table."""
    print(f"\n{name}")
    for key, value in answer.items():
        if not isinstance(value, list):
            print(f"  {key.replace('_', ' '):<24} {value}")
            continue
        for row in value:
            cell = lambda of: of["ms"] if isinstance(of, dict) and "ms" in of else of
            print("   ", "  ".join(f"{column}={cell(of)}" for column, of in row.items() if of not in (None, {})))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    modes = {"transfer": transfer, "grow": grow, "snapshot": snapshot, "away": away}
    parser.add_argument("mode", choices=[*modes, "all"])
    parser.add_argument("--synod", default="target/release/synod")
    parser.add_argument("--base-port", type=int, default=23200)
    parser.add_argument("--quick", action="store_true", help="small: whether it works; the figures are worth nothing")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' folders, with their logs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    if os.getloadavg()[0] > 0.5:
        say(f"other programs run (load {os.getloadavg()[0]:.1f}): the figures will be too bad")
    answers = {}
    for name in modes if arguments.mode == "all" else [arguments.mode]:
        say(f"--- {name}")
        answers[name] = modes[name](arguments)
        if not arguments.json:
            show(name, answers[name])
    if arguments.json:
        print(json.dumps(answers, indent=2))
    lost = answers.get("grow", {}).get("lost_keys", 0)
    differ = [name for name, answer in answers.items() if answer.get("equal_states") is False]
    if lost or differ:
        sys.exit(f"{lost} acknowledged keys are lost; states differ: {differ}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
