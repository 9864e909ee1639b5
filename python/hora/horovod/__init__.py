"""Everything that lets a script written for Horovod run unchanged.

    horarun --horovod -np 2 python train.py
    torchrun --nproc-per-node 2 -m hora.horovod train.py      without horarun

``path`` is a folder to put on PYTHONPATH; the package ``horovod`` in it wins over an installed one
and answers every import from ``alias.MODULES``. ``variables`` knows the HOROVOD_* variables.
"""
