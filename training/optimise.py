"""Muon for the matrices inside the blocks, AdamW for the rest.

Muon: the momentum of a matrix is made nearly orthogonal by five Newton–Schulz steps, then scaled to the size of an
AdamW step, so that one learning rate serves both. Matrices of one shape are handled as one batch.
"""
import torch


def orthogonal(g):
    """[n, rows, columns] → about the nearest matrices with singular values near 1."""
    x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)
    wide = x.shape[-2] <= x.shape[-1]
    if not wide:
        x = x.transpose(-1, -2)
    x = x / (x.float().flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)).to(x.dtype)
    for _ in range(5):
        a = x @ x.transpose(-1, -2)
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return (x if wide else x.transpose(-1, -2)).to(g.dtype)


class Muon:
    def __init__(self, parameters, momentum=0.95, decay=0.02):
        self.momentum, self.decay = momentum, decay
        groups = {}
        for p in parameters:
            groups.setdefault(tuple(p.shape[-2:]), []).append(p)
        self.groups = [(group, [torch.zeros_like(p) for p in group]) for group in groups.values()]

    @torch.no_grad()
    def step(self, lr):
        for group, buffers in self.groups:
            updates, live = [], []
            for p, buffer in zip(group, buffers):
                if p.grad is None:
                    continue
                buffer.mul_(self.momentum).add_(p.grad)
                updates.append(p.grad.add(buffer, alpha=self.momentum).view(-1, *p.shape[-2:]))
                live.append(p)
            if not live:
                continue
            counts = [u.shape[0] for u in updates]
            done = orthogonal(torch.cat(updates)).split(counts)
            scale = 0.2 * max(live[0].shape[-2:]) ** 0.5
            for p, update in zip(live, done):
                p.mul_(1 - lr * self.decay).add_(update.reshape(p.shape), alpha=-lr * scale)


class Optimiser:
    def __init__(self, model, only=None):
        """only: these parameters alone (the indexers); None: every parameter."""
        chosen = [(n, p) for n, p in model.named_parameters() if only is None or any(p is o for o in only)]
        small = ("router", "weights_proj", "embed")
        matrices = [p for n, p in chosen if p.dim() >= 2 and not n.endswith(small)]
        names = {id(p) for p in matrices}
        self.muon = Muon(matrices)
        rest = [p for n, p in chosen if id(p) not in names]
        self.adam = torch.optim.AdamW([{"params": rest}], lr=1e-3, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
        self.parameters = [p for _, p in chosen]

    def step(self, lr, clip=1.0):
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        self.muon.step(lr)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.zero()
        return norm

    def zero(self):
        for p in self.parameters:
            p.grad = None
