"""What may have started a rank, one module for each: horarun's pipe, torchrun, MPI, Slurm.

Each turns variables and an agreement among the ranks into a ``Bootstrap``; ``hora.bootstrap`` tries
them in order.
"""
