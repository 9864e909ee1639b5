"""Starts N ranks on this host, shows their output, and leaves nothing behind when they end.

``horarun`` = ``hora run`` = ``python -m hora.launch``. Two processes make up the launcher: a
guardian that only watches (``guardian``), and its child that runs the job (``job``), so that
whichever of them is killed, the other one ends every rank and every descendant of a rank.

    cli ─┬─ options  (flags, config_file, hosts, spelling)
         └─ command → guardian → job ─┬─ rank_process  (bootstrap_pipe, environment)
                                      ├─ output        (lines, terminal)
                                      ├─ signals, process_tree, escalation
                                      └─ fates         (what happened to each rank, in words)

``hora.run`` is ``function``, which starts the launcher with ``call`` as the ranks' program.
"""
