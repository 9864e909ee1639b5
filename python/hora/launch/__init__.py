"""Starts the ranks of a job, shows their output, and leaves nothing behind when they end.

``horarun`` = ``hora run`` = ``python -m hora.launch``. Two processes make up the launcher: a
guardian that only watches (``guardian``), and its child that runs the job (``job``), so that
whichever of them is killed, the other one ends every rank and every descendant of a rank.

    cli ─┬─ options  (flags, host_options, config_file, hosts, spelling) → job_spec
         └─ command → guardian → job ─┬─ crew: one_host or hosts_crew
                                      ├─ output  (output_pipes, lines, terminal)
                                      ├─ signals, escalation
                                      └─ fates   (what happened to each rank, in words)

    cli ─── slurm, mpi → handover: this process becomes srun or mpirun, and none of the above runs

    one_host ─── local_ranks ─── rank_process, process_tree (bootstrap_pipe, environment)
    hosts_crew ─ preflight, agent_host ─ agent_link ══ ssh ══ agent ─ host_checks, local_ranks
                                             └──── messages ────┘

Over several hosts, each one has an agent, which has the ranks there as its children and knows
nothing of policy: the job decides, wherever its ranks are.

``hora.run`` is ``function``, which starts the launcher with ``call`` as the ranks' program.
"""
