"""Nodes of our own and clients that write, for the scripts beside this one."""
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
import subprocess
import sys
import tempfile
import time
import urllib.request

CLIENTS = 64
now = time.monotonic


def say(text):
    print(text, file=sys.stderr, flush=True)


def wait_until(what, condition, seconds=300, every=0.05):
    end = now() + seconds
    while now() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            found = condition()
            if found:
                return found
        time.sleep(every)
    sys.exit(f"{what}: not within {seconds} s")


class Cluster:
    """Nodes as processes of `synod serve`. They and their folder go with the `with` block."""

    def __init__(self, arguments, ids, settings=""):
        self.synod, self.port, self.keep = arguments.synod, arguments.base_port, arguments.keep
        self.settings, self.running, self.load = settings, {}, None
        self.folder = tempfile.mkdtemp(prefix="synod-life-", dir=".")
        try:
            for id in ids:
                self.configure(id, ids)
                self.run("init", "--config", self.config(id))
                self.serve(id)
            wait_until("all nodes are ready", lambda: all(map(self.ready, ids)))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.load:
            self.load.kill()
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
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
        for of in members:
            text += f'[[members]]\nid = {of}\npeer = "{peer(of)}"\nclient_url = "{self.url(of)}"\n'
        with open(self.config(id), "w") as file:
            file.write(text + self.settings)

    def run(self, *words, may_be_refused=False):
        done = subprocess.run([self.synod, *words], capture_output=True, text=True)
        if done.returncode not in ((0, 3) if may_be_refused else (0,)):
            sys.exit(f"synod {' '.join(words)}: {done.stderr.strip()}")
        return done.returncode == 0

    def member(self, *words, **options):
        return self.run("member", *words, "--endpoints", ",".join(map(self.url, self.running)), **options)

    def serve(self, id):
        # A session of its own: Ctrl-C is for this script, which then stops the nodes.
        with open(os.path.join(self.folder, f"node-{id}.log"), "a") as log:
            command = [self.synod, "serve", "--config", self.config(id)]
            self.running[id] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self, id):
        self.running[id].terminate()
        return self.gone(id)

    def gone(self, id):
        code = self.running[id].wait(60)
        del self.running[id]
        return code

    def fetch(self, id, path):
        with urllib.request.urlopen(self.url(id) + path, timeout=5) as answer:
            return answer.read().decode()

    def status(self, id):
        return json.loads(self.fetch(id, "/v1/status"))

    def metrics(self, id):
        lines = (line.split() for line in self.fetch(id, "/metrics").splitlines() if line[0] != "#")
        return {name[len("synod_"):]: float(value) for name, value in lines}

    def ready(self, id):
        return self.fetch(id, "/readyz") is not None  # 503 is an error

    def leader(self):
        lead = lambda: next((id for id in self.running if self.status(id)["role"] == "leader"), None)
        return wait_until("a leader", lead)

    def slowest_sync_ms(self):
        return round(max(self.metrics(id)["journal_sync_us_max"] for id in self.running) / 1000, 1)

    def settle(self):
        """Waits until every node has done the same and nothing is flushed or compacted any more."""
        quiet = 0

        def idle():
            nonlocal quiet
            nodes = [self.metrics(id) for id in self.running]
            slots = {node[slot] for node in nodes for slot in ("applied_slot", "durable_slot")}
            busy = sum(node["state_running_jobs"] + node["state_pending_compaction_bytes"] for node in nodes)
            quiet = quiet + 1 if len(slots) == 1 and not busy else 0
            return quiet == 4

        wait_until("compaction comes to its end", idle, every=0.5)
        os.sync()

    def equal_states(self):
        def at_one_slot():
            states = [self.status(id) for id in self.running]
            return len({state["applied_slot"] for state in states}) == 1 and states
        return len({state["state_hash"] for state in wait_until("the same slot", at_one_slot)}) == 1


class Client:
    def __init__(self, number):
        self.number, self.next, self.failed, self.wakes = number, 0, [], 0.0
        self.socket, self.port, self.plan, self.sent, self.rest = None, 0, 0, 0.0, b""


class Writers:
    """The clients, in a process of their own: each puts one new key after the other, over
    one connection, and goes on to the next node after an error."""

    def __init__(self, pipe, ports):
        self.pipe, self.ports, self.plan = pipe, ports, 1
        self.poll, self.by_fd = select.epoll(), {}
        self.times, self.errors, self.stalls, self.moves = array.array("d"), [], [], []
        self.clients = [Client(number) for number in range(CLIENTS)]

    def connect(self, client):
        if client.plan != self.plan:
            client.plan, client.port = self.plan, self.ports[client.number % len(self.ports)]
        client.socket = socket.create_connection(("127.0.0.1", client.port), timeout=1)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.by_fd[client.socket.fileno()] = client
        self.poll.register(client.socket, select.EPOLLIN)

    def disconnect(self, client):
        if client.socket:
            del self.by_fd[client.socket.fileno()]
            client.socket.close()
        client.socket, client.rest = None, b""

    def send(self, client):
        if client.plan != self.plan:
            self.disconnect(client)
        key = b"life/%02d/%08d" % (client.number, client.next)
        request = b"PUT /v1/kv/%b HTTP/1.1\r\nhost: n\r\ncontent-length: 256\r\n\r\n%b" % (key, key.ljust(256))
        try:
            client.socket or self.connect(client)
            client.sent = now()
            client.socket.send(request)
        except ConnectionRefusedError:
            # Nobody listens there, and nothing was sent: another node gets this write.
            self.moves.append(now())
            client.sent, client.wakes = 0.0, now() + 0.005
            self.go_on(client)
        except OSError as error:
            self.fail(client, f"sending: {error}")

    def go_on(self, client):
        self.disconnect(client)
        client.port = next((port for port in self.ports if port > client.port), self.ports[0])

    def fail(self, client, what):
        """Such a write may have had its effect or not: its key is not used again."""
        self.errors.append((now(), what))
        client.failed.append(client.next)
        client.next, client.sent, client.wakes = client.next + 1, 0.0, now() + 0.005
        self.go_on(client)

    def receive(self, client):
        try:
            new = client.socket.recv(65536)
        except OSError:
            new = b""
        if not new:
            return self.fail(client, "the connection ended")
        data = client.rest + new
        end, at = data.find(b"\r\n\r\n"), data.find(b"content-length: ")
        if end < 0 or len(data) < end + 4 + int(data[at + 16:data.find(b"\r", at)]):
            client.rest = data
            return None
        if data[9:10] != b"2":
            kind = data.partition(b"urn:synod:")[2].partition(b'"')[0]
            return self.fail(client, (data[9:13] + kind).decode())
        self.times.append(now())
        client.next, client.rest = client.next + 1, b""
        if data.find(b"connection: close", 0, end) > 0:
            self.disconnect(client)
        return self.send(client)

    def run(self):
        gc.disable()
        self.poll.register(self.pipe.fileno(), select.EPOLLIN)
        last = now()
        while True:
            for client in self.clients:
                if not client.sent and client.wakes <= last:
                    self.send(client)
                elif client.sent and client.sent < last - 6:
                    self.fail(client, "no answer within 6 s")
            events = self.poll.poll(0.002)
            if now() - last > 0.005:
                # This process was slow or did not run: that is no silence of the cluster.
                self.stalls.append((last, now()))
            last = now()
            for fd, _ in events:
                if fd in self.by_fd:
                    self.receive(self.by_fd[fd])
                elif fd == self.pipe.fileno():
                    self.ports, self.plan = self.pipe.recv(), self.plan + 1
                    if not self.ports:
                        keys = [(client.next, client.failed) for client in self.clients]
                        return self.pipe.send((self.times, self.errors, self.stalls, self.moves, keys))


def write_all_day(pipe, ports):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Writers(pipe, ports).run()


class Load:
    """The writers as seen from outside; after `stop` what they saw."""

    def __init__(self, cluster, ids):
        self.port = cluster.port
        self.pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, [self.port + id for id in ids])
        self.process = multiprocessing.Process(target=write_all_day, args=arguments, daemon=True)
        self.process.start()
        cluster.load = self.process
        time.sleep(3)

    def write_to(self, ids):
        self.pipe.send([self.port + id for id in ids])
        time.sleep(0.3)

    def stop(self):
        self.pipe.send([])
        self.times, self.errors, self.stalls, self.moves, self.keys = self.pipe.recv()

    def silence(self, begin, end):
        """The longest interval reaching beyond `begin`, but not `end`, without any
        acknowledgement, as `synod bench failover` has it."""
        first, last = bisect.bisect_right(self.times, begin), bisect.bisect_right(self.times, end)
        times = [*self.times[max(first - 1, 0):last], end]
        length, at = max((b - a, a) for a, b in zip(times, times[1:]))
        ours = sum(max(0, min(b, at + length) - max(a, at)) for a, b in self.stalls)
        return {"ms": round(length * 1000, 1), "load_stood_ms": round(ours * 1000, 1), "at_s": round(at - begin, 3)}

    def seen(self, begin, end):
        count = bisect.bisect_right(self.times, end) - bisect.bisect_right(self.times, begin)
        errors = collections.Counter(what for when, what in self.errors if begin <= when < end)
        return {"per_s": round(count / (end - begin)), "silence": self.silence(begin, end), "errors": dict(errors),
                "not_listening": sum(begin <= when < end for when in self.moves)}


class Bench:
    """`synod bench throughput`, which costs less, at the leader. The leader counts its writes."""

    def __init__(self, cluster, leader, clients, keys):
        nodes = [{"id": id, "pid": None, "client_url": cluster.url(id)} for id in cluster.running]
        path = os.path.join(cluster.folder, "cluster.json")
        with open(path, "w") as file:
            json.dump({"nodes": nodes}, file)
        command = [cluster.synod, "bench", "throughput", "--cluster", path, "--to-node", str(leader),
                   "--clients", str(clients), "--keys", str(keys), "--duration-s", "900", "--json"]
        self.process = cluster.load = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.revision = lambda: cluster.status(leader)["revision"]
        first, self.series, self.leader = self.revision(), [], leader
        wait_until("the first writes", lambda: self.revision() > first + clients)
        self.start = now()

    def clock(self):
        return now() - self.start

    def until(self, what, condition):
        """Waits, looks how far the writes are meanwhile, and says when it came true."""
        def look():
            if self.process.poll() is not None:
                sys.exit("the load ended by itself")
            self.series.append((self.clock(), self.revision()))
            return condition()
        wait_until(what, look, 600, 0.1)
        return self.clock()

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def per_s(self, begin, end):
        inside = [point for point in self.series if begin <= point[0] <= end]
        if len(inside) < 2:
            sys.exit(f"no figures from second {begin} to {end}: this load was shorter than the others")
        (first, before), (last, after) = inside[0], inside[-1]
        return round((after - before) / (last - first))

    def leave_behind(self, cluster, applied, enough):
        """Until there were enough writes and no journal goes back to what was applied."""
        cut = lambda: all(cluster.metrics(id)["truncated_slot"] > applied + 1 for id in cluster.running)
        self.until("writes, and journals that are cut", lambda: enough() and cut())

    def bring_back(self, cluster, id):
        """Starts the node, which gets the state of a peer, and says what was when."""
        times, state = {"started": self.clock()}, {}
        cluster.serve(id)

        def coming():
            state.update(cluster.status(id).get("snapshot", {}))
            return state.get("bytes_total")

        times["coming"] = self.until("a state is coming", coming)
        times["here"] = self.until("the state is here", lambda: cluster.metrics(id)["snapshots_installed_total"])
        times["ready"] = self.until("the node is ready", lambda: cluster.ready(id))
        return {name: round(at, 2) for name, at in times.items()}, {
            "bytes": state["bytes_total"], "from": state["from"], "leader": self.leader,
            "snapshots": round(cluster.metrics(id)["snapshots_installed_total"])}
