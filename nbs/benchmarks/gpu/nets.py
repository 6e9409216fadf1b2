"""The package's nets in PyTorch, and their weights in Keras's order."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def same(x, k, s):
    """TensorFlow's padding."""
    if s == 1:
        return x, k // 2
    pads = []
    for n in (x.shape[3], x.shape[2]):
        t = max((math.ceil(n / s) - 1) * s + k - n, 0)
        pads += [t // 2, t - t // 2]
    return F.pad(x, pads), 0


class Conv(nn.Module):
    def __init__(self, cin, cout, k=1, s=1, groups=1, bias=False):
        super().__init__()
        self.w = nn.Parameter(torch.empty(cout, cin // groups, k, k))
        self.b = nn.Parameter(torch.zeros(cout)) if bias else None
        fan_in, fan_out = cin // groups * k * k, cout * k * k
        if groups > 1:
            fan_in, fan_out = cin * k * k, k * k  # as Keras counts for depthwise kernels
        lim = math.sqrt(6 / (fan_in + fan_out))
        nn.init.uniform_(self.w, -lim, lim)
        self.k, self.s, self.g = k, s, groups

    def forward(self, x):
        x, p = same(x, self.k, self.s)
        return F.conv2d(x, self.w, self.b, self.s, p, 1, self.g)


class BN(nn.Module):
    def __init__(self, c, momentum, frozen=False):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("mean", torch.zeros(c))
        self.register_buffer("var", torch.ones(c))
        self.momentum, self.frozen = momentum, frozen
        if frozen:
            self.w.requires_grad_(False)
            self.b.requires_grad_(False)

    def forward(self, x):
        live = self.training and not self.frozen
        return F.batch_norm(x, self.mean, self.var, self.w, self.b, live, 1 - self.momentum, 1e-3)


class Unit(nn.Module):
    def __init__(self, conv, c, act, momentum, frozen=False):
        super().__init__()
        self.conv, self.bn, self.act = conv, BN(c, momentum, frozen), act

    def forward(self, x):
        for conv in self.conv if isinstance(self.conv, nn.ModuleList) else [self.conv]:
            x = conv(x)
        x = self.bn(x)
        return {6: F.relu6, 1: F.relu, 0: nn.Identity()}[self.act](x)


def stages(variant):
    wide, deep = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}[variant]
    middle = [(2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192)]
    middle = [(math.ceil(deep * b), *r) for b, *r in middle]
    out = [(1, 3, 1, 1, 16), *middle, (1, 3, 1, 6, 320)]
    return [(*r, 8 * round(wide * c / 8)) for *r, c in out]


class Encoder(nn.Module):
    def __init__(self, variant, short, drop):
        super().__init__()
        self.units, self.plan = nn.ModuleList(), []

        def add(conv, c, act):
            self.units.append(Unit(conv, c, act, 0.99, frozen=True))
            return len(self.units) - 1

        add(Conv(3, 32, 3, 2), 32, 6)
        c, self.skips = 32, []
        for blocks, k, first, widen, filters in stages(variant)[: -1 if short else None]:
            for s in [first] + [1] * (blocks - 1):
                step, mid = [], c * widen
                step.append(add(Conv(c, mid), mid, 6) if widen > 1 else None)
                step.append(add(Conv(mid, mid, k, s, mid), mid, 6))
                step.append(add(Conv(mid, filters), filters, 0))
                if s == 2:
                    self.skips.append(mid)
                self.plan.append((step, s, s == 1 and c == filters))
                c = filters
        self.last = None if short else add(Conv(c, 1280), 1280, 6)
        self.channels = [*self.skips, c if short else 1280]
        self.drop = drop

    def forward(self, x):
        saved, x = [], self.units[0](x)
        for i, ((a, b, c), s, plus) in enumerate(self.plan):
            before = x
            if a is not None:
                x = self.units[a](x)
            if s == 2:
                saved.append(x)
            x = self.units[c](self.units[b](x))
            if plus:
                if self.training and self.drop:
                    p = self.drop * i / len(self.plan)
                    keep = (torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= p).to(x.dtype) / (1 - p)
                    x = x * keep
                x = x + before
        return [*saved, x if self.last is None else self.units[self.last](x)]


def separable(n):
    return Unit(nn.ModuleList([Conv(n, n, 3, 1, n), Conv(n, n)]), n, 1, 0.9)


class Lite(nn.Module):
    def __init__(self, variant=0, short=False, width=(192, 128, 96, 48, 16), drop=0.0):
        super().__init__()
        self.encoder = Encoder(variant, short, drop)
        self.up = nn.ModuleList()
        chans = [3, *self.encoder.channels]
        c = chans.pop()
        for i, n in enumerate(width):
            full = i == len(width) - 1
            part = [Unit(Conv(chans.pop(), n, 3 if full else 1), n, 1, 0.9), Unit(Conv(c, n), n, 1, 0.9)]
            self.up.append(nn.ModuleList(part + [separable(n) for _ in range(1 if full else 2)]))
            c = n
        self.out = Conv(c, 3, bias=True)

    def forward(self, x):
        x = x / 128 - 127 / 128
        saved = [x, *self.encoder(x)]
        x = saved.pop()
        for skip, up, *more in self.up:
            x = F.interpolate(up(x), scale_factor=2, mode="bilinear") + skip(saved.pop())
            for m in more:
                x = m(x)
        return self.out(x)


class UNet(nn.Module):
    def __init__(self, width=16, depth=4):
        super().__init__()

        def stage(a, b):
            u = nn.ModuleList([Unit(Conv(a, b, 3), b, 1, 0.99), Unit(Conv(b, b, 3), b, 1, 0.99)])
            for m in u:  # Keras's he_normal
                std = math.sqrt(2 / m.conv.w[0].numel()) / 0.8796
                nn.init.trunc_normal_(m.conv.w, 0, std, -2 * std, 2 * std)
            return u

        fs, c = [width * 2**i for i in range(depth)], 3
        self.down = nn.ModuleList()
        for f in fs:
            self.down.append(stage(c, f))
            c = f
        self.bottom = stage(c, 2 * c)
        c = 2 * c
        self.up, self.tr = nn.ModuleList(), nn.ModuleList()
        for f in reversed(fs):
            t = nn.ConvTranspose2d(c, f, 2, 2)
            lim = math.sqrt(6 / (4 * (c + f)))
            nn.init.uniform_(t.weight, -lim, lim)
            nn.init.zeros_(t.bias)
            self.tr.append(t)
            self.up.append(stage(2 * f, f))
            c = f
        self.out = Conv(c, 3, bias=True)

    def forward(self, x):
        x, skips = x / 127.5 - 1, []

        def run(stage, y):
            return stage[1](stage[0](y))

        for d in self.down:
            skips.append(run(d, x))
            x = F.max_pool2d(skips[-1], 2)
        x = run(self.bottom, x)
        for t, u in zip(self.tr, self.up, strict=True):
            x = run(u, torch.cat([skips.pop(), t(x)], 1))
        return self.out(x)


def arrays(net):
    """{"number.kind.part": numpy} of all weights in order of making, Keras's layouts."""
    found, inner = [], set()

    def get(t):
        return t.detach().float().cpu().numpy()

    for m in net.modules():
        if isinstance(m, nn.ModuleList) and len(m) == 2 and all(isinstance(c, Conv) for c in m):
            found.append(("sep", [get(m[0].w).transpose(2, 3, 0, 1), get(m[1].w).transpose(2, 3, 1, 0)]))
            inner |= {id(c) for c in m}
        elif isinstance(m, Conv) and id(m) not in inner:
            w = get(m.w).transpose(2, 3, 0, 1) if m.g > 1 else get(m.w).transpose(2, 3, 1, 0)
            found.append(("dw" if m.g > 1 else "conv", [w] + ([get(m.b)] if m.b is not None else [])))
        elif isinstance(m, nn.ConvTranspose2d):
            found.append(("tr", [get(m.weight).transpose(2, 3, 1, 0), get(m.bias)]))
        elif isinstance(m, BN):
            found.append(("bn", [get(t) for t in (m.w, m.b, m.mean, m.var)]))
    return {f"{i:03}.{k}.{n}": a for i, (k, parts) in enumerate(found) for n, a in enumerate(parts)}


def load_encoder(net, values):
    """values: the encoder's arrays in order, Keras's layouts."""
    it = iter(values)
    with torch.no_grad():
        for u in net.encoder.units:
            order = (2, 3, 0, 1) if u.conv.g > 1 else (3, 2, 0, 1)
            u.conv.w.copy_(torch.tensor(next(it).transpose(order)))
            for t in (u.bn.w, u.bn.b, u.bn.mean, u.bn.var):
                t.copy_(torch.tensor(next(it)))


def make(job, imagenet):
    args = job["args"]
    if job["model"] == "unet":
        return UNet(**args)
    net = Lite(**args, drop=job.get("drop", 0.0))
    load_encoder(net, imagenet[args.get("variant", 0)])
    return net
