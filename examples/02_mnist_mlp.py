"""Trains a small network on real handwritten digits, on any number of ranks.

    horarun -np 2 python examples/02_mnist_mlp.py

The digits (8 x 8 pixels, 1797 of them) come with scikit-learn, so nothing is downloaded. The global
batch stays the same however many ranks share it, and so does the result: at the end rank 0 trains
once more alone on the same batches, and the last line compares the two. A network this small has
little to gain in speed from a second rank; what it shows is that the result is the same.
"""

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import hora.torch as hvd
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

SIZES = (64, 128, 64, 10)


@dataclass
class Outcome:
    """How training ended."""

    model: nn.Module
    loss: float  # mean of the last epoch's batches
    accuracy: float  # on the test split
    samples_per_s: float  # over all epochs, evaluation left out


def at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number, 1 or more")
    return int(word)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--epochs", type=at_least_one, default=10, help="passes over the data (%(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=at_least_one,
        default=64,
        help="global batch, shared by the ranks (%(default)s)",
    )
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate (%(default)s)")
    parser.add_argument("--momentum", type=float, default=0.9, help="of SGD (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of weights and order (%(default)s)")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare with one process on the same batches at the end (default)",
    )
    return parser.parse_args()


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Returns the training and the test split: pixels scaled to 0..1, and the digits."""
    digits = load_digits()
    pixels = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[360:], order[:360]
    return TensorDataset(pixels[train], labels[train]), TensorDataset(pixels[test], labels[test])


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(SIZES[0], SIZES[1]),
        nn.ReLU(),
        nn.Linear(SIZES[1], SIZES[2]),
        nn.ReLU(),
        nn.Linear(SIZES[2], SIZES[3]),
        nn.LogSoftmax(dim=1),
    )


def make_optimizer(model: nn.Module, arguments: argparse.Namespace) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=arguments.lr, momentum=arguments.momentum)


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[list[torch.Tensor]]
) -> float:
    """One pass; returns the mean loss of its batches. The same with one process or with many."""
    loss_of = nn.NLLLoss()
    losses = []
    for pixels, labels in batches:
        optimizer.zero_grad()
        loss = loss_of(model(pixels), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def count_correct(model: nn.Module, data: Iterable[list[torch.Tensor]]) -> int:
    return sum(int((model(pixels).argmax(dim=1) == labels).sum()) for pixels, labels in data)


def train_together(arguments: argparse.Namespace) -> Outcome:
    """Trains on all ranks."""
    train_set, test_set = load_data()
    loader = hvd.DistributedDataLoader(
        train_set, arguments.batch_size // hvd.size(), seed=arguments.seed, drop_last=True
    )
    # For the test every sample counts once, whether or not the ranks divide them.
    share = hvd.DistributedSampler(test_set, shuffle=False, even=False)
    test_loader = DataLoader(test_set, batch_size=512, sampler=share)

    model = make_model(arguments.seed + hvd.rank())  # different on purpose, until the broadcast
    optimizer = hvd.DistributedOptimizer(
        make_optimizer(model, arguments), named_parameters=model.named_parameters()
    )
    hvd.broadcast_parameters(model, root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)

    with Report(arguments.epochs, len(loader)) as report:
        seconds = 0.0
        for epoch in range(1, arguments.epochs + 1):
            start = time.perf_counter()
            loss = hvd.metric_average(train_epoch(model, optimizer, report.watch(loader)))
            elapsed = time.perf_counter() - start
            seconds += elapsed
            correct = hvd.allreduce(torch.tensor(count_correct(model, test_loader)), op=hvd.Sum)
            accuracy = correct.item() / len(test_set)
            samples = len(loader) * loader.batch_size * hvd.size()
            report.epoch(epoch, loss, accuracy, samples / elapsed)
    return Outcome(model, loss, accuracy, samples * arguments.epochs / seconds)


def train_alone(arguments: argparse.Namespace) -> Outcome:
    """Trains in this process only, on the same global batches in the same order."""
    train_set, test_set = load_data()
    batch_size = arguments.batch_size // hvd.size() * hvd.size()
    sampler = hvd.DistributedSampler(
        train_set, num_replicas=1, rank=0, seed=arguments.seed, drop_last=True
    )
    batches_per_epoch = len(train_set) // hvd.size() // (batch_size // hvd.size())
    model = make_model(arguments.seed)
    optimizer = make_optimizer(model, arguments)
    seconds = 0.0
    for epoch in range(arguments.epochs):
        sampler.set_epoch(epoch)
        order = list(sampler)[: batches_per_epoch * batch_size]
        loader = DataLoader(Subset(train_set, order), batch_size=batch_size)
        start = time.perf_counter()
        loss = train_epoch(model, optimizer, loader)
        seconds += time.perf_counter() - start
    accuracy = count_correct(model, DataLoader(test_set, batch_size=512)) / len(test_set)
    return Outcome(model, loss, accuracy, len(order) * arguments.epochs / seconds)


class Report:
    """Says on rank 0 how training goes: with a bar on a terminal, in plain lines elsewhere."""

    def __init__(self, epochs: int, batches: int) -> None:
        self._speaks = hvd.rank() == 0
        self._bar = None
        if self._speaks:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            # horarun hands lines on: it says whether they end on a terminal.
            console = Console(force_terminal="HORA_TERMINAL" in os.environ or None)
            if console.is_terminal:
                self._bar = Progress(
                    "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    console=console,
                )  # fmt: skip
                self._task = self._bar.add_task("training", total=epochs * batches)

    def __enter__(self) -> "Report":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def watch(self, batches: Iterable[list[torch.Tensor]]) -> Iterator[list[torch.Tensor]]:
        for batch in batches:
            yield batch
            if self._bar:
                self._bar.advance(self._task)

    def epoch(self, number: int, loss: float, accuracy: float, samples_per_s: float) -> None:
        line = (
            f"epoch {number:3}  loss {loss:.4f}  test accuracy {accuracy:6.2%}  "
            f"{samples_per_s:,.0f} samples/s"
        )
        if self._bar:
            self._bar.console.print(line, highlight=False)
        elif self._speaks:
            print(line, flush=True)


def compare(together: Outcome, alone: Outcome, ranks: int) -> str:
    difference = max(
        float((ours - theirs).detach().abs().max())
        for ours, theirs in zip(together.model.parameters(), alone.model.parameters(), strict=True)
    )
    return (
        f"{ranks} ranks against 1 process on the same global batches: "
        f"loss {together.loss:.6f} / {alone.loss:.6f}, "
        f"accuracy {together.accuracy:.2%} / {alone.accuracy:.2%}, "
        f"largest parameter difference {difference:.1e}, "
        f"speed x{together.samples_per_s / alone.samples_per_s:.2f}"
    )


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)  # the network is so small that threads cost more than they bring
    hvd.init()
    if not 0 < hvd.size() <= arguments.batch_size:
        raise SystemExit(f"--batch-size {arguments.batch_size} is less than one sample per rank")
    together = train_together(arguments)
    # The others are done; rank 0 has the machine for itself.
    if arguments.check and hvd.rank() == 0:
        print(compare(together, train_alone(arguments), hvd.size()), flush=True)


if __name__ == "__main__":
    main()
