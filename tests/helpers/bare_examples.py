"""Each example's task as a bare PyTorch script: its networks and its data, loops and figures by
hand.

Nothing of the trainer, the metrics or the config's optimizers is used. Batches come from the
example's loaders, whose
order and augmentation have tests of their own.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import optim
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau


def mean(parts):
    """The mean over samples of pairs (mean over a batch, its samples)."""
    total = sum(float(value) * n for value, n in parts)
    return total / sum(n for _, n in parts)


def judged(network, loader, value, size=len):
    """A mean over a loader's samples, in evaluation mode; `value` of a batch is a mean."""
    network.eval()
    with torch.no_grad():
        return mean([(value(batch), size(batch[0])) for batch in loader.batches(0)])


def cross_entropy(network):
    return lambda batch: F.cross_entropy(network(batch[0]), batch[1])


def accuracy(network):
    return lambda batch: (network(batch[0]).argmax(1) == batch[1]).double().mean()


def descend(network, loader, loss, optimizer, epochs, schedule=None, after=lambda: None):
    """The loop that everybody writes."""
    for epoch in range(1, epochs + 1):
        network.train()
        for batch in loader.batches(epoch, 0, len(loader)):
            loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            if schedule is not None:
                schedule.step()
        after()


def one_cycle(optimizer, rate, steps, **options):
    return OneCycleLR(optimizer, rate, total_steps=steps, **options)


def autoencoder(net, loader, valid, epochs, trainer):
    def loss(x):
        return F.mse_loss(net(x), x)

    descend(net, loader, loss, optim.Adam(net.parameters(), lr=0.002, fused=True), epochs)
    net.eval()
    with torch.no_grad():
        return {"val_loss": mean([(loss(x), len(x)) for x in valid.batches(0)])}


def backbone_classifier(net, loader, valid, epochs, trainer):
    optimizer = optim.AdamW(net.parameters(), lr=0.003, fused=True)
    schedule = one_cycle(optimizer, 0.003, epochs * len(loader))
    descend(net, loader, cross_entropy(net), optimizer, epochs, schedule)
    return {"val_accuracy": judged(net, valid, accuracy(net))}


def char_lm(net, loader, valid, epochs, trainer):
    def loss(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(net(batch[0]).flatten(0, 1), batch[1].flatten())

    weights = list(net.parameters())
    groups = [
        {"params": [p for p in weights if (p.ndim > 1) == flag], "weight_decay": 0.1 * flag}
        for flag in (1, 0)
    ]
    optimizer, length = optim.AdamW(groups, lr=0.003, betas=(0.9, 0.99)), trainer.len_epoch
    schedule = one_cycle(
        optimizer, 0.003, epochs * math.ceil(length / 2), pct_start=0.1, cycle_momentum=False
    )
    net.train()
    done = 0  # an epoch is shorter than a pass, and the next one goes on from there
    for _ in range(epochs):
        batches = [*loader.batches(1, done, done + length)]
        done += length
        for pair in (batches[i : i + 2] for i in range(0, length, 2)):
            tokens = sum(y.numel() for _, y in pair)
            for batch in pair:
                (loss(batch) * (batch[1].numel() / tokens)).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return {"val_loss": judged(net, valid, loss, size=torch.numel)}


def contrastive(net, loader, valid, epochs, trainer):
    def loss(batch):
        one, two = net(torch.cat(batch[:2])).chunk(2)
        both, n = torch.cat([one, two]), len(one)
        alike = (both @ both.T / 0.2).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
        return F.cross_entropy(alike, (torch.arange(2 * n) + n) % (2 * n))

    descend(net, loader, loss, optim.AdamW(net.parameters(), lr=0.003, fused=True), epochs)
    net.eval()
    with torch.no_grad():
        vectors, labels = (
            torch.cat(part)
            for part in zip(*((net(x), y) for x, _, y in valid.batches(0)), strict=True)
        )
    alike = (vectors @ vectors.T).fill_diagonal_(-2)
    near = labels[alike.argsort(dim=1, descending=True)[:, :5]]
    return {"val_knn": float((near.mode(dim=1).values == labels).double().mean())}


def distillation(net, loader, valid, epochs, trainer):
    teacher = trainer.teacher.eval()

    def loss(batch):
        output, hint = net(batch["image"]), teacher(batch["image"]).detach()
        soft = (
            F.kl_div(F.log_softmax(output / 4, 1), F.softmax(hint / 4, 1), reduction="batchmean")
            * 16
        )
        return (F.cross_entropy(output, batch["label"]) + soft) / 2

    descend(net, loader, loss, optim.Adam(net.parameters(), lr=0.003, fused=True), epochs)
    pairs = [(b["image"], b["label"]) for b in valid.batches(0)]
    return {"val_accuracy": mean([(accuracy(net.eval())(pair), len(pair[1])) for pair in pairs])}


def finetune(net, loader, valid, epochs, trainer):
    body, head = list(net.net.layer4.parameters()), list(net.net.fc.parameters())
    for parameter in net.parameters():
        parameter.requires_grad_(any(parameter is one for one in (*body, *head)))
    optimizer = optim.AdamW([{"params": body, "lr": 2e-4}, {"params": head, "lr": 2e-3}])
    schedule, losses, done = ReduceLROnPlateau(optimizer, factor=0.3, patience=1), [], 0
    for _ in range(epochs):
        net.eval()
        net.net.layer4.train()
        net.net.fc.train()
        for batch in batches_from(loader, done, trainer.len_epoch):
            cross_entropy(net)(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        done += trainer.len_epoch
        losses.append(judged(net, valid, cross_entropy(net)))
        schedule.step(losses[-1])
    return {"val_loss": losses[-1]}


def batches_from(loader, start, n):
    """So many batches of pass after pass, from a place."""
    for k in range(start, start + n):
        yield from loader.batches(k // len(loader) + 1, k % len(loader), k % len(loader) + 1)


def gan(net, loader, valid, epochs, trainer):
    critic, noise = trainer.critic, 64
    optimizers = [
        optim.Adam(part.parameters(), lr=lr, betas=(0.5, 0.999), fused=fused)
        for part, lr, fused in ((critic, 5e-4, False), (net, 1e-3, True))
    ]

    def losses(real):
        fake = net(torch.randn(len(real), noise))
        return F.softplus(torch.cat([-critic(real), critic(fake.detach())])).mean(), F.softplus(
            -critic(fake)
        ).mean()

    for epoch in range(1, epochs + 1):
        net.train()
        critic.train()
        for real, _ in loader.batches(epoch):
            for k, optimizer in enumerate(optimizers):
                losses(real)[k].backward()
                optimizer.step()
                optimizer.zero_grad()
            optimizers[0].zero_grad()
    net.eval()
    critic.eval()
    with torch.no_grad():
        return {
            "val_generator": mean([(losses(real)[1], len(real)) for real, _ in valid.batches(0)])
        }


def lbfgs(net, loader, valid, epochs, trainer):
    optimizer = optim.LBFGS(net.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    for epoch in range(1, epochs + 1):
        for batch in loader.batches(epoch):

            def again(batch=batch):
                optimizer.zero_grad()
                loss = cross_entropy(net)(batch)
                loss.backward()
                return loss

            optimizer.step(again)
    return {"val_loss": judged(net, valid, cross_entropy(net))}


def segmentation(net, loader, valid, epochs, trainer):
    optimizer = optim.AdamW(net.parameters(), lr=0.003, fused=True)
    descend(
        net,
        loader,
        cross_entropy(net),
        optimizer,
        epochs,
        one_cycle(optimizer, 0.006, epochs * len(loader)),
    )
    net.eval()
    with torch.no_grad():
        pairs = [(net(x).argmax(1), y) for x, y in valid.batches(0)]
    called, masks = (torch.cat(part) for part in zip(*pairs, strict=True))
    return {
        f"val_iou_{name}": float(
            ((called == k) & (masks == k)).sum() / ((called == k) | (masks == k)).sum()
        )
        for k, name in ((1, "disc"), (2, "box"))
    }


def stream(net, loader, valid, epochs, trainer):
    descend(
        net, loader, cross_entropy(net), optim.Adam(net.parameters(), lr=0.003, fused=True), epochs
    )
    return {"val_accuracy": judged(net, valid, accuracy(net))}


def tabular(net, loader, valid, epochs, trainer):
    x, y = loader.x, loader.y
    means = torch.stack([column[~column.isnan()].mean() for column in x.T])
    stds = torch.stack([column[~column.isnan()].std(correction=0) for column in x.T])

    def foretold(rows):
        return net.net(((rows - means) / stds).nan_to_num(nan=0)) * y.std() + y.mean()

    def loss(batch):
        return F.huber_loss(foretold(batch[0]), batch[1], delta=200.0) / 200

    optimizer = optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.01, fused=True)
    schedule = CosineAnnealingLR(optimizer, 30)
    descend(net, loader, loss, optimizer, epochs, after=schedule.step)
    net.eval()
    with torch.no_grad():
        rows, targets = (torch.cat(part) for part in zip(*valid.batches(0), strict=True))
        error = (foretold(rows) - targets).double()
    return {
        "val_mae": float(error.abs().mean()),
        "val_r2": float(1 - (error**2).mean() / targets.double().var(correction=0)),
    }


def figures(name, trainer, epochs):
    """The figures of the task and the weights after so many epochs, from the networks and the data
    of a trainer."""
    net = copy.deepcopy(trainer.model)
    found = globals()[name](net, trainer.data_loader, trainer.valid_data_loader, epochs, trainer)
    return found, net.state_dict()
