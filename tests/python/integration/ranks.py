"""What the ranks of the schedulers' tests run: they say where they are, and add up something."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bare import BARE

_RANK = f"""{BARE}
import hashlib, json, os
from hora import bootstrap
place = bootstrap.detect(timeout=60)
hvd.init()
total = hvd.allreduce_(hvd.full(3, hvd.rank() + 1.0), name="total", op=hvd.Sum)
hvd.shutdown()
hvd.init()  # the files are gone by now: it must not need them
hvd.allreduce_(hvd.ones(1), name="again", op=hvd.Sum)
said = {{
    "rank": hvd.rank(), "size": hvd.size(), "local": [hvd.local_rank(), hvd.local_size()],
    "cross": [hvd.cross_rank(), hvd.cross_size()], "launcher": place.launcher,
    "total": total.tolist(), "meeting": [place.rendezvous, place.store, place.job_id],
    "key": hashlib.sha256(place.key).hexdigest(),
}}
with open(os.path.join(sys.argv[1], f"said.{{hvd.rank()}}"), "w") as file:
    json.dump(said, file)
"""


def rank_words(folder: Path) -> list[str]:
    """The command of each rank, which leaves a file in ``folder``."""
    return [sys.executable, "-c", _RANK, str(folder)]


def check_ranks(folder: Path, sizes: list[int], launcher: str, is_flat: bool = False) -> None:
    """Asserts that all ranks of hosts of these sizes were there, agreed and computed right.

    ``is_flat``: their backend is for all ranks, so that those of one host have a store, too.
    """
    size = sum(sizes)
    said = [json.loads((folder / f"said.{rank}").read_text()) for rank in range(size)]
    assert len(list(folder.glob("said.*"))) == size
    places = [(host, local) for host, count in enumerate(sizes) for local in range(count)]
    for rank, (one, (host, local)) in enumerate(zip(said, places, strict=True)):
        assert (one["rank"], one["size"], one["launcher"]) == (rank, size, launcher)
        assert one["local"] == [local, sizes[host]]
        with_this = [index for index, count in enumerate(sizes) if count > local]
        assert one["cross"] == [with_this.index(host), len(with_this)]
        assert one["total"] == [size * (size + 1) / 2] * 3
        assert (one["meeting"], one["key"]) == (said[0]["meeting"], said[0]["key"])
    name, store, job_id = said[0]["meeting"]
    has_store = is_flat or len(sizes) > 1
    assert (bool(store), bool(name)) == (has_store, not has_store)
    assert job_id
