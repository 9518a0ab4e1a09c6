"""Solvers: pure functions from a schedule and times to a plan, the table that one loop runs.

A solver has no loop of its own. It fills the columns of a :class:`~ddimx.solvers.plan.Plan`; the
executor, the kernel, ``--nfe``, ``--explain``, ``evaluate solvers`` and plan files take it from
there. How to add one:

1. Write ``heun.py`` beside this file, with a function that returns a plan:

       def heun(schedule: Schedule, times: Times, *, prediction: Prediction = "epsilon") -> Plan:

   ``times`` ascend; the plan visits them downwards and ends at clean data.
   :mod:`ddimx.solvers.rows` lays out rows of one evaluation for each time, or any others, and fills
   in every column that the solver says nothing about. A solver with arguments (``heun:2``) or
   options (``--eta``) takes them as further keywords. :mod:`ddimx.solvers.ddim` and
   :mod:`ddimx.solvers.pfdiff` are the shortest examples of one and of many evaluations. A
   prediction that was made elsewhere than at the row's state is weighted in the space in which it
   is bounded: near alpha_bar = 0 as x0 (``history="x0"``), for a step in epsilon multiplies it, and
   the state, by 1 / sqrt(alpha_bar). :func:`ddimx.solvers.plan.amplification` has the reason, and
   :meth:`ddimx.solvers.rows.Rows.plan` refuses what breaks it.
2. Declare it in ``SOLVERS`` in :mod:`ddimx.solvers.registry`: one entry, which says what the help
   text shows, which arguments there are and how many evaluations a number of times costs.

The tests that run over ``all_names()`` take it in by themselves: names, evaluations, plan files,
the level of known pixels. Its order of convergence is a line in ``tests/solvers/test_order.py``.
If the formula does not fit the table, the table lacks a column: :mod:`ddimx.kernels.update.columns`
is the one list of them.
"""
