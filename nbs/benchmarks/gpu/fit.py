"""Train nets side by side on one GPU, by PyTorch: python fit.py PHOTOS.pkl JOBS.json OUT

What a run draws and computes is what `petseg train` does by the same recipe; only its random numbers are others, and
most layers compute in bfloat16. A wave of jobs is trained together, each a CUDA graph; it ends in time, if need be
with shorter schedules.
"""

import copy
import io
import json
import math
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from nets import arrays, make
from PIL import Image

T0 = time.time()
print("start", time.strftime("%X"), flush=True)
DEV = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.benchmark = False
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def load():
    data = pickle.loads(Path(sys.argv[1]).read_bytes())

    def dec(data):
        return np.asarray(Image.open(io.BytesIO(data)))

    with ThreadPoolExecutor(16) as pool:
        photos = np.stack(list(pool.map(lambda r: dec(r[3]), data["rows"])))
        masks = np.stack(list(pool.map(lambda r: dec(r[4]), data["rows"])))
    part = np.array([r[1] for r in data["rows"]])
    aspect = np.array([r[2] for r in data["rows"]], "float32")
    return photos, masks, part, aspect, data["encoders"]


PH, MA, PART, ASPECT, ENC = load()
photos = torch.from_numpy(PH.copy()).permute(0, 3, 1, 2).contiguous().to(DEV)
masks = torch.from_numpy(MA.copy()).to(DEV)
aspects, S = torch.from_numpy(ASPECT).to(DEV), MA.shape[-1]
fg = ((MA == 0) | (MA == 2)).astype("float32")
n_ = fg.sum((1, 2)) + 1e-6
grid = (np.arange(S) + 0.5) / S
centres = torch.from_numpy(
    np.stack([(fg.sum(1) * grid).sum(1) / n_, (fg.sum(2) * grid).sum(1) / n_], 1).astype("float32")
).to(DEV)
print("loaded", photos.shape, time.time() - T0, flush=True)


def uniform(n, k):
    return torch.rand(n, k, device=DEV) * 2 - 1


def matrix(r, zoom, turn, stretch, aspect):
    """(B, 2, 2): columns: a step right, a step down, in pixels of the square photo."""
    step = 1 / (zoom[0] * (zoom[1] / zoom[0]) ** ((r[:, 0] + 1) / 2))
    wide = (1 + stretch) ** r[:, 1]
    mirror = torch.where(r[:, 2] < 0, -1.0, 1.0)
    angle = turn * math.pi / 180 * r[:, 3]
    right, down = mirror * step * wide, step / wide
    m = torch.stack(
        [
            torch.stack([right * angle.cos(), -down * angle.sin()], 1),
            torch.stack([right * angle.sin(), down * angle.cos()], 1),
        ],
        1,
    )
    if aspect is not None:
        m = m * torch.stack([aspect**-0.5, aspect**0.5], 1)[:, :, None]
    return m


def coords(m, centre, size, base):
    """(B, h, w, 2) in grid_sample's units; centre in pixels of the square photo of side base."""
    p = torch.arange(size, device=DEV, dtype=torch.float32) - (size - 1) / 2
    x = m[:, :, 0][:, None, None] * p[None, None, :, None] + m[:, :, 1][:, None, None] * p[None, :, None, None]
    return (x + centre[:, None, None] + 0.5) * 2 / base - 1


def recolour(x, r, light=0.25, sat=0.5):
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + sat * r[:, 0, None, None, None])
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * (1 + light * r[:, 1, None, None, None])) * (1 + light * r[:, 2, None, None, None])
    return x.clamp(0, 255)


def batch(idx, j):
    """Augmented photos (B, 3, n, n) 0..255 and masks (B, n, n)."""
    B, size, base = len(idx), j["size"], j["base"]
    x, y = photos[idx].float(), masks[idx].float()[:, None]
    a = aspects[idx] if j.get("aspect") else None
    kw = {"turn": j.get("turn", 8), "stretch": j.get("stretch", 0.15)}
    r = uniform(B, 9)
    m = matrix(r, j["zoom"], aspect=a, **kw)
    reach = m.abs().sum(2) * (size - 1) / 2
    room = (base - 1) / 2
    fit = (room / reach).min(1).values.clamp(max=1)
    m, reach = m * fit[:, None, None], reach * fit[:, None]
    g = coords(m, room + r[:, 4:6] * (room - reach).clamp(min=0), size, base)
    im = recolour(F.grid_sample(x, g, padding_mode="border", align_corners=False), r[:, 6:] * j.get("colour", 1))
    la = F.grid_sample(y, g, mode="nearest", padding_mode="border", align_corners=False)[:, 0]
    if j.get("paste"):
        i2 = idx.roll(1)
        x2, y2 = photos[i2].float(), masks[i2].float()[:, None]
        r2 = uniform(B, 9)
        m2 = matrix(r2, [0.4, 1.1], aspect=aspects[i2] if a is not None else None, **kw)
        at = uniform(B, 2) * 0.45 * size  # where in the window the pet's centre lands, from the middle
        c2 = centres[i2] * base - 0.5 - (m2 * at[:, None, :]).sum(2)
        g2 = coords(m2, c2, size, base)
        im2 = recolour(F.grid_sample(x2, g2, padding_mode="border", align_corners=False), r2[:, 6:])
        la2 = F.grid_sample(
            (y2 == 0).float() * 1 + (y2 == 2).float() * 2, g2, mode="nearest", padding_mode="zeros", align_corners=False
        )[:, 0]
        on = (la2 > 0) & (torch.rand(B, 1, 1, device=DEV) < j["paste"])
        soft = F.avg_pool2d(((la2 == 1).float() + 0.5 * (la2 == 2).float())[:, None], 5, 1, 2) * on[:, None]
        im = im + (im2 - im) * soft
        la = torch.where(on, torch.where(la2 == 2, 2.0, 0.0), la)
    return im, la.long()


def band(x, k=9):
    """(B, h, w): what of a soft mask lies within k // 2 pixels of its outline, inside."""
    return x + F.max_pool2d(-x[:, None], k, 1, k // 2)[:, 0]


def lovasz(p, truth, known):
    """Lovász-softmax (Berman and others, 2018), over all pixels of a batch."""
    losses = []
    for c in range(3):
        right = truth[:, c].flatten()
        wrong, order = ((right - p[:, c].flatten()).abs() * known.flatten()).sort(descending=True)
        right = right[order]
        jaccard = 1 - (right.sum() - right.cumsum(0)) / (right.sum() + (1 - right).cumsum(0))
        losses.append((wrong * torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])).sum())
    return sum(losses) / 3


def loss_of(logits, la, j, soft=None):
    known = la != 255
    truth = torch.stack([la == c for c in range(3)], 1).float()
    logp = logits.float().log_softmax(1)
    p = logp.exp()
    w = known.float()
    if "border" in j:
        w = w + (j["border"] - 1) * truth[:, 2]
    if "near" in j:  # pixels within four of another class count so many times
        w = w * (1 + (j["near"] - 1) * (sum(band(truth[:, c]) for c in range(3)) > 0))
    hit, all_ = (truth * p).sum((0, 2, 3)), ((truth + p) * known[:, None]).sum((0, 2, 3))
    dice = (1 - (2 * hit / (all_ + 1e-7)).mean()) if not j.get("lovasz") else lovasz(p, truth, known.float())
    out = -((truth * logp).sum(1) * w).sum() / w.sum() + 0.5 * dice
    if "bands" in j:  # Dice of the outlines of pet and border together
        one, two = band((1 - truth[:, 1]) * known), band((1 - p[:, 1]) * known)
        out = out + j["bands"] * (1 - 2 * (one * two).sum() / ((one + two).sum() + 1e-7))
    if soft is not None:
        s = j["share"]
        out = (1 - s) * out + s * (soft * (soft.clamp(min=1e-6).log() - logp)).sum(1).mean()
    return out


class Job:
    def __init__(self, j, made):
        self.j, self.name = j, j["name"]
        torch.manual_seed(j.get("seed", 1337))
        np.random.seed(j.get("seed", 1337))
        self.net = make(j, ENC).to(DEV).to(memory_format=torch.channels_last).train()
        self.pool = np.flatnonzero(PART == "train" if j.get("part", "train") == "train" else PART != "test")
        if "labels" in j:  # so many of them
            self.pool = np.random.permutation(self.pool)[: j["labels"]]
        B = j.get("batch", 16)
        self.steps = j["seen"] // B
        order = np.concatenate(
            [np.random.permutation(self.pool) for _ in range(math.ceil(j["seen"] / len(self.pool)) + 1)]
        )
        self.idx = torch.from_numpy(order[: self.steps * B].reshape(self.steps, B)).to(DEV)
        self.step = torch.zeros((), dtype=torch.long, device=DEV)
        self.total = torch.tensor(float(self.steps), device=DEV)
        self.teachers = [made[t].net_eval() for t in j.get("teachers", [])]
        enc = {id(p) for p in self.net.encoder.parameters()} if hasattr(self.net, "encoder") else set()
        ps = [p for p in self.net.parameters() if p.requires_grad]
        rest, inside = [p for p in ps if id(p) not in enc], [p for p in ps if id(p) in enc]
        self.groups = [(rest, 1.0), (inside, j.get("encoder", 0.2))]  # and their share of the rate
        self.params = [p for g, _ in self.groups for p in g]
        self.m1 = [torch.zeros_like(p) for p in self.params]
        self.m2 = [torch.zeros_like(p) for p in self.params]
        self.ema = [p.detach().clone() for p in self.params] if j.get("ema") else None
        self.loss = torch.zeros((), device=DEV)
        self.done = 0
        self.graph = None

    def net_eval(self):
        return copy.deepcopy(self.final()).eval()

    def final(self):
        if self.ema is not None:
            with torch.no_grad():
                for p, e in zip(self.params, self.ema, strict=True):
                    p.copy_(e)
            self.ema = None
        return self.net

    def update(self):
        j = self.j
        with torch.no_grad():
            grads = [p.grad for p in self.params]
            t = self.step.float() + 1
            warm = min(len(self.pool) / j.get("batch", 16), 0.1 * self.steps)
            lr = j.get("rate", 1e-3) * torch.where(
                t < warm, t / warm, 0.5 * (1 + torch.cos(math.pi * ((t - warm) / (self.total - warm)).clamp(0, 1)))
            )
            torch._foreach_lerp_(self.m1, grads, 0.1)
            torch._foreach_mul_(self.m2, 0.999)
            torch._foreach_addcmul_(self.m2, grads, grads, 0.001)
            a1, a2 = 1 - 0.9**t, 1 - 0.999**t
            d = torch._foreach_sqrt(self.m2)
            torch._foreach_mul_(d, 1 / a2.sqrt())
            torch._foreach_add_(d, 1e-7)
            u = torch._foreach_div(self.m1, d)
            torch._foreach_mul_(u, 1 / a1)
            k = 0
            for g, share in self.groups:
                if not g:
                    continue
                part = u[k : k + len(g)]
                torch._foreach_add_(part, g, alpha=0.01)
                torch._foreach_mul_(part, -lr * share)
                torch._foreach_add_(g, part)
                k += len(g)
            if self.ema is not None:
                torch._foreach_lerp_(self.ema, self.params, 1 - j["ema"])
            self.step.add_(1)

    def one(self):
        with torch.no_grad():
            idx = self.idx.index_select(0, self.step.clamp(max=len(self.idx) - 1).view(1))[0]
            x, y = batch(idx, self.j)
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(DEV, torch.bfloat16, cache_enabled=False):
            soft = None
            if self.teachers:
                with torch.no_grad():
                    soft = sum(t(x).float().softmax(1) for t in self.teachers) / len(self.teachers)
            out = self.net(x)
        loss = loss_of(out, y, self.j, soft)
        for p in self.params:
            p.grad = None
        loss.backward()
        self.update()
        self.loss.lerp_(loss.detach(), 0.02)

    def capture(self):
        if DEV == "cpu":
            return
        state = [t.clone() for t in [*self.net.state_dict().values()]]
        s = torch.cuda.Stream()
        s.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(s):
            for _ in range(3):
                self.one()
        torch.cuda.current_stream().wait_stream(s)
        torch.cuda.synchronize()
        print(f"    [{time.time() - T0:.1f}] {self.name} warm", flush=True)
        self.stream = s
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=s):
            self.one()
        with torch.no_grad():
            for t, v in zip(self.net.state_dict().values(), state, strict=True):
                t.copy_(v)
            for t in [*self.m1, *self.m2, self.step, self.loss]:
                t.zero_()
            if self.ema is not None:
                for e, p in zip(self.ema, self.params, strict=True):
                    e.copy_(p)
        torch.cuda.synchronize()

    def run(self):
        if self.graph is None:
            self.one()
        else:
            with torch.cuda.stream(self.stream):
                self.graph.replay()
        self.done += 1


def shapes(side):
    tall = [(32 * round(side * side / w / 32), w) for w in range(96, side + 1, 32)]
    return sorted({s for t in tall if t[0] <= 10 * t[1] for s in (t, t[::-1])})


@torch.no_grad()
def look(net, which, side, squeezed):
    """Probabilities (N, 3, S, S) of these photos, seen at about side x side pixels, or squeezed to just that."""
    out = torch.zeros(len(which), 3, S, S, device=DEV)
    offered = [(side, side)] if squeezed else shapes(side)
    chosen = [min(offered, key=lambda s: abs(np.log(s[1] / s[0] / ASPECT[i]))) for i in which]
    for shape in sorted(set(chosen)):
        rows = [n for n, s in enumerate(chosen) if s == shape]
        some = photos[torch.from_numpy(which[rows]).to(DEV)].float()
        x = F.interpolate(some, shape, mode="bilinear", antialias=True).round()
        with torch.autocast(DEV, torch.float16 if DEV == "cuda" else torch.bfloat16):
            p = net(x.contiguous(memory_format=torch.channels_last)).float().softmax(1)
        out[torch.tensor(rows, device=DEV)] = F.interpolate(p, (S, S), mode="bilinear")
    return out


@torch.no_grad()
def score(net, part, looks):
    """{looks: [mean IoU, pet + border IoU, border IoU]} of the photos of a part; one look is squeezed."""
    which = np.flatnonzero(part == PART)
    truth = masks[torch.from_numpy(which).to(DEV)].long()
    seen = {side: look(net, which, side, len(looks) == 1) for side in {side for sides in looks for side in sides}}
    out = {}
    for sides in looks:
        p = sum(seen[side] for side in sides)
        c = torch.bincount((truth * 3 + p.argmax(1))[truth < 3], minlength=9)[:9].double().cpu().numpy().reshape(3, 3)
        iou = np.diag(c) / (c.sum(0) + c.sum(1) - np.diag(c))
        fg = c[np.ix_([0, 2], [0, 2])].sum() / (c.sum() - c[1, 1])
        out["+".join(map(str, sides))] = [round(float(v), 4) for v in (iou.mean(), fg, iou[2])]
    return out


def done_units(jobs, cost):
    return sum(job.done * cost[job.name] for job in jobs)


def main(path, out):
    waves = json.loads(Path(path).read_text())
    made = {}
    for wave in waves:
        t = time.time()
        jobs = [Job(j, made) for j in wave["jobs"]]
        for job in jobs:
            job.capture()
        print(f"[{time.time() - T0:.0f}] captured {len(jobs)} in {time.time() - t:.1f}", flush=True)
        t, rounds, until = time.time(), 0, wave.get("until", 1e9)
        cost = {job.name: job.j.get("cost", 1.0) for job in jobs}
        t1, u1 = None, 0
        while active := [job for job in jobs if job.done < job.steps]:
            for job in active:
                job.run()
            rounds += 1
            if rounds % 20 == 0 and DEV == "cuda":
                torch.cuda.synchronize()
            if rounds in (40, 120, 300) or rounds % 500 == 0:
                now = time.time()
                if t1 is not None:
                    rate = (now - t1) / max(1e-9, done_units(jobs, cost) - u1)
                    todo = sum((job.steps - job.done) * cost[job.name] for job in jobs) * rate
                    left = until - (now - T0)
                    print(
                        f"[{now - T0:.0f}] round {rounds}: {todo:.0f} s to go, {left:.0f} allowed;",
                        " ".join(f"{job.name}:{job.done}/{job.steps}:{float(job.loss):.3f}" for job in jobs),
                        flush=True,
                    )
                    if todo > left:
                        for job in jobs:
                            if job.done < job.steps:
                                job.steps = int(job.done + (job.steps - job.done) * max(0.02, left / todo))
                                job.total.fill_(float(job.steps))
                t1, u1 = time.time(), done_units(jobs, cost)
        if DEV == "cuda":
            torch.cuda.synchronize()
        seen = sum(job.done * job.j.get("batch", 16) for job in jobs)
        print(
            f"[{time.time() - T0:.0f}] wave: {time.time() - t:.1f} s, {seen / (time.time() - t):.0f} photos/s",
            flush=True,
        )
        for job in jobs:
            job.graph = None
            net = job.final().eval()
            job.teachers = []
            job.m1 = job.m2 = None
            made[job.name] = job
            if job.j.get("keep"):
                np.savez(
                    f"{out}/{job.name}.npz",
                    **{k: a if ".bn." in k else a.astype("float16") for k, a in arrays(net).items()},
                )
            note = {
                "job": job.j,
                "steps": job.done,
                "loss": float(job.loss),
                "score": job.j.get("score") and score(net, **job.j["score"]),
            }
            print(json.dumps(note), flush=True)
            with Path(out, "log.jsonl").open("a") as f:
                f.write(json.dumps(note) + "\n")
        print(f"[{time.time() - T0:.0f}] scored", flush=True)


main(*sys.argv[2:4])
