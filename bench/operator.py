#!/usr/bin/env python3
"""What docs/operations.md tells an operator, done to a cluster, most of it while 64 clients write.

    bench/operator.py [--synod target/release/synod] [--next target/debug/synod-next] [--flips 100]

Each of three nodes is killed and replaced in turn; a node's folder is wiped and the node replaced
where it was; bits of all files of a dead node are flipped, as many as --flips, and then bits of
another one's state; every node goes over to the other release and back, if there is one. When the clients are done a backup is restored
elsewhere, and all nodes are killed and one of them recovered. Each command is the one that the docs
name. Nothing that was acknowledged may be missing in the end, the states must be equal, and what
was restored or recovered must be what was there. Says how long each step took.
Needs Python 3.9, Linux and a real disk. Prints JSON.
"""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys

from harness import Cluster, Load, now, say, wait_until
from life import read_back

OTHER_CLUSTER = "6b" * 16


class Operated(Cluster):
    """A cluster in which a node may have the addresses of another one that is gone."""

    def __init__(self, arguments, ids):
        self.place, self.steps = {}, []
        super().__init__(arguments, ids)

    def url(self, id):
        return super().url(self.place.get(id, id))

    def configure_new(self, id, place=None):
        self.place[id] = place or id
        self.configure(id, [id])
        if place:
            with open(self.config(id)) as file:
                text = file.read()
            for base in (self.port, self.port + 10):
                text = text.replace(f":{base + id}\"", f":{base + place}\"")
            with open(self.config(id), "w") as file:
                file.write(text)

    def kill(self, id):
        if self.running[id].poll() is not None:
            sys.exit(f"node {id} ended by itself: {self.log(id)[-2000:]}")
        self.running[id].kill()
        self.gone(id)

    def data(self, id):
        return os.path.join(self.folder, f"data-{id}")

    def log(self, id):
        with open(os.path.join(self.folder, f"node-{id}.log")) as file:
            return file.read()

    def replace(self, old, new):
        """As the docs say: the command, and the node beside it."""
        words = ["member", "replace", str(old), "--config", self.config(new), "--endpoints",
                 ",".join(self.url(id) for id in self.running)]
        command = subprocess.Popen([self.synod, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        identity = os.path.join(self.data(new), "identity.json")
        wait_until("the folder of the new node", lambda: os.path.exists(identity))
        # The folder has a name of its own until it is whole.
        self.serve(new)
        said = command.communicate(timeout=300)[0]
        if command.returncode:
            sys.exit(f"synod {' '.join(words)}: {said}")
        wait_until(f"node {new} serves", lambda: self.ready(new))

    def step(self, name, load, begin, **more):
        self.steps.append({"step": name, "seconds": round(now() - begin, 1), **more, "during": (begin, now())})
        load.write_to([self.place.get(id, id) for id in self.running])
        say(f"{name}: {now() - begin:.1f} s")


def each_is_replaced(cluster, load):
    for old, new in [(1, 4), (2, 5), (3, 6)]:
        begin = now()
        cluster.kill(old)
        cluster.configure_new(new)
        cluster.replace(old, new)
        cluster.step(f"node {old} was killed, {new} is in its place", load, begin)


def one_is_wiped(cluster, load):
    """The folder is empty, so the node does not start; a new one takes its addresses."""
    begin, old, new = now(), 4, 7
    cluster.kill(old)
    shutil.rmtree(cluster.data(old))
    os.mkdir(cluster.data(old), 0o700)
    cluster.serve(old)
    code = cluster.gone(old)
    words = cluster.log(old)
    if code == 0 or "synod member replace" not in words:
        sys.exit(f"an empty folder: code {code}, {words[-500:]}")
    cluster.configure_new(new, place=old)
    cluster.replace(old, new)
    cluster.step(f"the folder of node {old} was wiped, {new} is where it was", load, begin)


def bits_are_flipped(cluster, load, flips, draw, id, part):
    """The node is started again as long as it asks for that; if it names a command, that is given."""
    begin = now()
    cluster.kill(id)
    files = [os.path.join(folder, name) for folder, _, names in os.walk(os.path.join(cluster.data(id), part))
             for name in names]
    files = [path for path in files if os.path.getsize(path)]
    sizes = [os.path.getsize(path) for path in files]
    for path in draw.choices(files, sizes, k=flips):
        with open(path, "r+b") as file:
            at = draw.randrange(os.path.getsize(path))
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << draw.randrange(8)]))
    starts, way = 0, "it serves"
    while True:
        starts += 1
        cluster.serve(id)
        process = cluster.running[id]

        def over():
            return process.poll() is not None or cluster.ready(id)

        wait_until("the node serves, or ends", over)
        if process.poll() is None:
            damage = cluster.status(id)["damage"]
            way += f", and tells: {damage}" if damage else ", and met none of it"
            break
        cluster.gone(id)
        last = cluster.log(id)[-3000:]
        if "synod member replace" in last:
            cluster.configure_new(8)
            cluster.replace(id, 8)
            way = "it named synod member replace, which was done"
            break
        if starts == 5:
            sys.exit(f"node {id} does not come back: {last}")
    cluster.step(f"{flips} bits in {part or 'all files'} of node {id} were flipped", load, begin, starts=starts, way=way)


def goes_over(cluster, load, program, name):
    begin, own = now(), cluster.synod
    for id in list(cluster.running):
        code = cluster.stop(id)
        if code:
            sys.exit(f"node {id} was stopped and ended with {code}")
        cluster.synod = program
        cluster.serve(id)
        cluster.synod = own
        wait_until(f"node {id} serves", lambda: cluster.ready(id))
    cluster.step(f"every node is {name}", load, begin)


def exported(synod, folder, url, name):
    path = os.path.join(folder, name)
    done = subprocess.run([synod, "export", path, "--endpoints", url], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"synod export: {done.stderr}")
    with open(path) as lines:
        records = [json.loads(line) for line in lines]
    return {record["key"]: record.get("value") for record in records if "key" in record}


def configured(folder, cluster_id, port, id, members, data):
    """A settings file of a node elsewhere."""
    text = f'node_id = {id}\ndata_dir = "{data}"\n[cluster]\nid = "{cluster_id}"\n'
    text += f'[client]\nlisten = "127.0.0.1:{port + id}"\n[peer]\nlisten = "127.0.0.1:{port + 10 + id}"\n'
    for of in members:
        text += f'[[members]]\nid = {of}\npeer = "127.0.0.1:{port + 10 + of}"\n'
        text += f'client_url = "http://127.0.0.1:{port + of}"\n'
    path = os.path.join(folder, f"elsewhere-{port + id}.toml")
    with open(path, "w") as file:
        file.write(text)
    return path


def listed_elsewhere(synod, folder, port, configs):
    """What a cluster of these nodes lists, and how long it took to serve."""
    begin = now()
    running = [subprocess.Popen([synod, "serve", "--config", config], start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for config in configs.values()]
    try:
        there = Cluster.__new__(Cluster)
        there.port = port
        wait_until("the cluster elsewhere serves", lambda: all(there.ready(id) for id in configs))
        took = now() - begin
        return exported(synod, folder, there.url(max(configs)), f"{port}.ndjson"), took
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(20)


def backup_elsewhere(cluster, port):
    """Of the cluster at rest: a backup, three new folders, and what is listed there."""
    begin, file = now(), os.path.join(cluster.folder, "all.synod")
    cluster.run("backup", file, "--endpoints", cluster.url(min(cluster.running)))
    with open(file, "rb") as whole, open(file + ".cut", "wb") as cut:
        data = whole.read()
        cut.write(data[:len(data) // 2])
    with open(file + ".flipped", "wb") as flipped:
        flipped.write(data[:len(data) // 3] + bytes([data[len(data) // 3] ^ 4]) + data[len(data) // 3 + 1:])
    for bad in (".cut", ".flipped"):
        if subprocess.run([cluster.synod, "restore", file + bad, "--check"], capture_output=True).returncode != 1:
            sys.exit(f"a backup that is {bad[1:]} was taken for a good one")
    ids, configs = [1, 2, 3], {}
    for id in ids:
        configs[id] = configured(cluster.folder, OTHER_CLUSTER, port, id, ids, f"restored-{id}")
        cluster.run("restore", file, "--config", configs[id])
    made = now() - begin
    after, took = listed_elsewhere(cluster.synod, cluster.folder, port, configs)
    before = exported(cluster.synod, cluster.folder, cluster.url(min(cluster.running)), "before.ndjson")
    if before != after or not before:
        sys.exit(f"{len(before)} keys before the backup, {len(after)} restored, and they differ")
    cluster.steps.append({"step": "a backup was restored elsewhere", "seconds": round(made + took, 1),
                          "keys": len(after), "mib": round(len(data) / (1 << 20), 1)})
    say(cluster.steps[-1])
    return before


def majority_is_lost(cluster, port, before):
    """All are killed, and one is left."""
    begin, id = now(), max(cluster.running)
    for other in list(cluster.running):
        cluster.kill(other)
    folder = os.path.join(cluster.folder, "recovered")
    words = ["recover", "--data", cluster.data(id), "--to", folder, "--yes-lose-slots", "--json"]
    done = subprocess.run([cluster.synod, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"synod {' '.join(words)}: {done.stderr}")
    made = json.loads(done.stdout)["made"]
    config = configured(cluster.folder, made["cluster"], port, id, [id], "recovered")
    after, _ = listed_elsewhere(cluster.synod, cluster.folder, port, {id: config})
    if before != after:
        sys.exit(f"{len(before)} keys before the end, {len(after)} recovered, and they differ")
    cluster.steps.append({"step": f"all were killed, and node {id} was recovered", "seconds": round(now() - begin, 1),
                          "keys": len(after)})
    say(cluster.steps[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--synod", default="target/release/synod")
    parser.add_argument("--next", default="target/debug/synod-next")
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--base-port", type=int, default=23000)
    parser.add_argument("--keep", action="store_true", help="keep the nodes' data and logs")
    arguments = parser.parse_args()
    arguments.synod = os.path.abspath(arguments.synod)
    with Operated(arguments, [1, 2, 3]) as cluster:
        load, begin = Load(cluster, [1, 2, 3]), now()
        each_is_replaced(cluster, load)
        one_is_wiped(cluster, load)
        draw = random.Random(arguments.seed)
        bits_are_flipped(cluster, load, arguments.flips, draw, 5, "")
        # This one stays to the end, when the states are compared.
        bits_are_flipped(cluster, load, arguments.flips, draw, 6, "state")
        if os.path.exists(arguments.next):
            goes_over(cluster, load, os.path.abspath(arguments.next), "the next release")
            goes_over(cluster, load, arguments.synod, "this release again")
        else:
            say(f"no other release at {arguments.next}: make next")
        load.stop()
        seen = load.seen(begin, load.times[-1])
        for step in cluster.steps:
            step["silence"] = load.silence(*step.pop("during"))
        lost = read_back(cluster, load, min(cluster.running))
        equal = cluster.equal_states()
        before = backup_elsewhere(cluster, arguments.base_port + 40)
        majority_is_lost(cluster, arguments.base_port + 60, before)
        answer = {"steps": cluster.steps, "acknowledged": len(load.times), "lost_keys": lost,
                  "equal_states": equal, "whole_run": seen}
    print(json.dumps(answer, indent=2))
    if lost or not equal:
        sys.exit("an acknowledged write is missing, or the states differ")


if __name__ == "__main__":
    main()
