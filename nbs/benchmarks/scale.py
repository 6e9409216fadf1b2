"""Cut many drawn photos in several ways, and with workers that die: python nbs/benchmarks/scale.py OUT [--photos N] [--faults N]

Writes two tables beside this file. scale.csv: photos a second and memory of each way, medians of five rounds in which the
ways take turns (memory: of the first). scale_faults.json: what came of a run on two nodes of one core each, of which a
worker was killed and a node was taken away (masks with a plain edge, to be done sooner).
"""

import argparse
import csv
import filecmp
import json
import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psutil

from petseg.cli import main
from petseg.cutting import cut_one, load_nets
from petseg.draw import draw_pets
from petseg.options import add_commands


def words(photos, out, *more):
    """What `petseg cut` is told."""
    return ["cut", str(photos), "-o", str(out), "--net", "small", *more]


def memory():
    """MB that this process and all below it hold, shared pages counted once."""
    found = 0
    for process in [me := psutil.Process(), *me.children(recursive=True)]:
        try:
            found += process.memory_full_info().pss
        except psutil.Error:
            continue
    return found / 2**20


def bare(job):
    """Cut photos one after the other, with one thread: no Ray, no manifest. Begin and end, without the start."""
    photos, out = job
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    args = parser.parse_args(words(photos[0], out))
    args.backdrop = None
    nets, start = load_nets(args, threads=1), time.time()
    for photo in photos:
        cut(photo, out, nets, args)
    return start, time.time()


def cut(photo, out, nets, args):
    with suppress(ValueError):  # no pet found
        cut_one(photo, Path(out, f"{Path(photo).stem}-cut.png"), nets, args)


class Watch(threading.Thread):
    """Looks at the results, four times a second: when the first and the last came; and, seldom, how much memory is held."""

    def __init__(self, out, events=()):
        super().__init__(daemon=True)
        self.out, self.events, self.most, self.seen, self.over = Path(out), list(events), 0, [], threading.Event()
        self.start()

    def run(self):
        looks = 0
        while not self.over.wait(0.25):
            n = sum(1 for _ in self.out.rglob("*.png"))
            self.seen += [(time.time(), n)] * (n > (self.seen[-1][1] if self.seen else 0))
            looks += 1
            if looks % 20 == 8:  # to look takes time from those who work
                self.most = max(self.most, memory())
            if self.events and n >= self.events[0][0]:
                self.events.pop(0)[1]()

    def stop(self):
        self.over.set()
        self.join()
        (begun, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - begun), round(self.most)


def ways(folder, work, n):
    """(name, photos a second, MB) of each way to cut n photos, the start left out."""
    photos = sorted(map(str, folder.iterdir()))[:n]
    few = work / "few"
    few.mkdir()
    for photo in photos:
        os.link(photo, few / Path(photo).name)
    for name, k in (("1 process", 1), ("2 processes", 2)):
        watch = Watch(work / name)
        with get_context("spawn").Pool(k) as pool:
            pool.map(bare, [(photos[i::k], work / name) for i in range(k)])
        yield name, *watch.stop()
    watch = Watch(work / "local")
    main(words(few, work / "local", "--ray", "local"))
    yield "Ray on this machine, 2 workers", *watch.stop()
    with two_nodes() as cluster:
        watch = Watch(work / "nodes")
        main(words(few, work / "nodes", "--ray", cluster.address))
        yield "Ray, two nodes of 1 worker", *watch.stop()


def rates(folder, work, n, rounds):
    """A row of each way: medians of photos a second and of its share of two processes' rate in the same round; MB of the first."""
    found = []
    for i in range(rounds):
        here = work / f"round {i}"
        here.mkdir()
        found.append({name: (rate, most) for name, rate, most in ways(folder, here, n)})
        print(found[-1], flush=True)
        shutil.rmtree(here)
    for name in found[0]:
        rate = median(turn[name][0] for turn in found)
        share = median(turn[name][0] / turn["2 processes"][0] for turn in found)
        yield [name, n, rounds, round(rate, 2), round(share, 3), found[0][name][1]]  # later this process has grown


@contextmanager
def two_nodes():
    """A cluster on this machine: a head without workers, and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    cluster.nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    try:
        yield cluster
    finally:
        cluster.shutdown()


def workers():
    """The processes that cut, by Ray."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::MapWorker"):
            found.append(process)
    return found


def faults(folder, work):
    """Cut a folder on two nodes; kill a worker after a third, take a node away after two; compare with one process's."""
    n = len(list(folder.iterdir()))
    with two_nodes() as cluster:
        events = [
            (n // 3, lambda: workers()[0].kill()),
            (2 * n // 3, lambda: cluster.remove_node(cluster.nodes[1], allow_graceful=False)),
        ]
        watch = Watch(work / "faults", events)
        code = main(words(folder, work / "faults", "--mask", "--no-matting", "--ray", cluster.address))
        watch.stop()
    assert not watch.events, "it was over before all had happened"
    main(words(folder, work / "alone", "--mask", "--no-matting"))
    rows = [json.loads(line) for part in sorted((work / "faults" / "manifest").glob("*.jsonl")) for line in part.open()]
    names = {path.name for path in (work / "alone").iterdir()}
    same, other, odd = filecmp.cmpfiles(work / "alone", work / "faults", names, shallow=False)
    return {
        "photos": n,
        "rows": len(rows),
        "photos with a row": len({row["path"] for row in rows}),
        "failed": sum("error" in row for row in rows),
        "results": sum(1 for _ in (work / "faults").rglob("*.png")),
        "as one process's, byte for byte": len(same),
        "others": len(other) + len(odd),
        "half-written": sum(1 for path in (work / "faults").rglob("*") if path.name.startswith(".")),
        "exit code": code,
    }


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("out", type=Path)
    asked.add_argument("--photos", type=int, default=300)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--faults", type=int, default=5000)
    asked.add_argument("--tables", type=Path, default=Path(__file__).parent)
    asked = asked.parse_args()
    folder = draw_pets(asked.out / "pets", max(asked.photos, asked.faults)) / "images"
    if asked.photos:
        rows = [*rates(folder, asked.out, asked.photos, asked.rounds)]
        with (asked.tables / "scale.csv").open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerows([["way", "photos", "rounds", "photos/s", "of 2 processes", "MB"], *rows])
    if not asked.faults:
        raise SystemExit
    found = faults(folder, asked.out)
    (asked.tables / "scale_faults.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found)
