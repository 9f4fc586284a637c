#!/usr/bin/env python3
"""Two builds of synod write in turn, on this machine.

    bench/builds.py OLDER NEWER [--rounds 10] [--seconds 6] [--keys 1000]

Each round is one `synod bench throughput` of each build, with three nodes of its own, settings
as they come, 64 clients at the leader, and the order turned round from one to the next. Prints JSON:
all writes a second, the ratio of the medians and the median of the rounds' ratios. Needs Python 3.9
and a quiet machine.
"""
import argparse
import json
import statistics
import subprocess
import sys

from harness import say


def per_s(synod, arguments):
    command = [synod, "bench", "throughput", "--to-leader", "--warm-up-s", "2", "--json",
               "--duration-s", str(arguments.seconds)]
    command += ["--keys", str(arguments.keys)] if arguments.keys else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{synod}: {done.stderr.strip()}")
    return round(json.loads(done.stdout)["writes"]["per_s"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("builds", nargs=2, metavar="SYNOD")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--keys", type=int, help="written again and again (what the benchmark does by itself unless given)")
    arguments = parser.parse_args()
    rows = []
    for number in range(arguments.rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        row = {at: per_s(arguments.builds[at], arguments) for at in order}
        rows.append((row[0], row[1]))
        say(f"round {number + 1} of {arguments.rounds}: {rows[-1]}")
    medians = [statistics.median(column) for column in zip(*rows)]
    print(json.dumps({"per_s": rows, "medians": medians, "ratio": round(medians[1] / medians[0], 3),
                      "median_of_pairs": round(statistics.median(new / old for old, new in rows), 3)}))


if __name__ == "__main__":
    main()
