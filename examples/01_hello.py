"""The three operations that everything else is made of.

    horarun -np 2 python examples/01_hello.py

Every rank runs this script; each brings its own values, and each gets the same result.
"""

import hora.torch as hvd
import torch


def main() -> None:
    hvd.init()
    rank, size = hvd.rank(), hvd.size()

    # allreduce: one tensor per rank in, their sum (or mean, min, max, product) out.
    mine = torch.tensor([1.0, 10.0]) * (rank + 1)
    total = hvd.allreduce(mine, op=hvd.Sum)
    print(f"rank {rank} of {size}: brought {mine.tolist()}, the sum is {total.tolist()}")

    # allgather: rows of all ranks, one below the other; ranks may bring different numbers of rows.
    rows = torch.full((rank + 1, 2), rank)
    print(f"rank {rank} of {size}: all rows are {hvd.allgather(rows).tolist()}")

    # broadcast: what one rank has, everyone has.
    secret = torch.tensor([42 if rank == 0 else -1])
    hvd.broadcast_(secret, root_rank=0)
    print(f"rank {rank} of {size}: rank 0 says {secret.item()}")


if __name__ == "__main__":
    main()
