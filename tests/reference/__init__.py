"""Every method's update written a second time, from its specification alone, in plain float64 code.

``tests/test_reference.py`` finds the modules of this package by name (``tests/reference/<method>.py``), gives the
learner and its reference the same random parameters, batches and noise, and compares every metric and every parameter
after each of five updates. A registered method without a module here fails that test.

A reference module holds:

``CASES``
    A list of :class:`tests.reference.harness.Case`: the default for every action kind, and every option that changes
    the mathematics. A list in ``settings`` gives each of the two replicas its own value of a ``float`` setting.
``update(own, batch)``
    One update of one replica: reads and changes ``own`` (a :class:`tests.reference.harness.Replica`: the task's
    shape, the configuration and the parameters by name) and returns all metrics by name. ``batch`` has the fields of
    :class:`marlzoo.batch.Batch` without the replica axis, and ``batch.noise``.
``NEVER_VARIED`` (optional)
    Settings that no case varies, each with the reason: name -> text.
``prepare(own, dataset, batches)`` (optional)
    What the method does before its first update; ``batches`` yields batches as the learner's own sampler draws them.
``make_batches(learner, updates)`` (optional)
    The learner's batches where they do not come from logged data (online methods).
``act(own, past)`` (optional)
    What the deployed policy does without exploration noise: the actions of all agents for the last of the steps
    ``past`` (:class:`tests.reference.harness.Seen`), as a list of tensors ``[A]`` or of integers.

Write a reference from the specification and the class's docstring, never from the method's code, and plainly: loops
over samples and agents, one formula per line. ``omiga.py`` is the example to follow. Where method and reference
differ, find out from the paper which is right, and mend the other.
"""
