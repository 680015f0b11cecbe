"""Environment steps per second of evaluation: R policies x E episodes in lockstep against the plain loop.

    python benchmarks/speed/evaluation.py [--task mamujoco/halfcheetah-6x1] [--replicas 1 4] [--rounds 5]

The plain loop (``reference_loop.py``) plays one episode after another in one environment, with batch 1. Both use this
package's environment and networks of OMIGA's sizes, in alternating rounds in one process. The last column is the
share of a run that OMIGA's protocol (ten episodes of 1000 steps every 5000 updates) spends in evaluation, with the
updates measured in the same rounds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from measuring import CPU, clocked, random_dataset, show, write_csv
from reference_loop import Buffer, Reference
from reference_loop import evaluate as evaluate_plainly

import marlzoo
from marlzoo.families import make_env, task_spec
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import make_sampler

# OMIGA's evaluation protocol.
EPISODES = 10
STEPS = 1000
UPDATES = 5000


@dataclass(frozen=True)
class Options:
    """What to measure."""

    task: str = "mamujoco/halfcheetah-6x1"  # where episodes do not end early
    replicas: tuple[int, ...] = (1, 4)  # numbers of replicas R
    episodes: int = EPISODES  # per replica
    steps: int = 100  # of an episode
    updates: int = 50  # per round, for the share of evaluation
    rounds: int = 5  # alternating rounds
    threads: int = 0  # of torch; 0: one per core
    output: Path = field(default_factory=lambda: Path("results/speed/evaluation.csv"))  # table as CSV


@dataclass
class Side:
    """One way to evaluate and to update, with what was measured of it."""

    name: str
    replicas: int
    play: Callable[[], int]  # returns the steps made
    update: Callable[[], object]
    step_seconds: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)

    def measure(self, updates: int) -> None:
        """One round."""
        steps = 0

        def play() -> None:
            nonlocal steps
            steps = self.play()

        self.step_seconds.append(clocked(play, CPU) / steps)
        self.update_seconds.append(clocked(lambda: [self.update() for _ in range(updates)], CPU) / updates)

    @property
    def rate(self) -> float:
        """Environment steps per second, of all copies together."""
        return 1.0 / statistics.median(self.step_seconds)

    @property
    def share(self) -> float:
        """Part of a run that the protocol spends in evaluation."""
        evaluating = self.replicas * EPISODES * STEPS / self.rate
        return evaluating / (evaluating + UPDATES * statistics.median(self.update_seconds))


def reference(options: Options) -> Side:
    """The plain loop."""
    spec = task_spec(options.task)
    agent = Reference(spec.n_agents, spec.obs_size, spec.state_size, spec.action_size)
    buffer = Buffer(random_dataset(spec, 20_000))
    env = make_env(options.task, 1)
    return Side(
        "reference loop",
        1,
        lambda: evaluate_plainly(agent, env, 1, options.steps)[1],
        lambda: agent.update(buffer.sample(128)),
    )


def ours(options: Options, replicas: int) -> Side:
    """R policies times E episodes in lockstep."""
    spec = task_spec(options.task)
    seeds = list(range(replicas))
    learner = marlzoo.make("omiga", spec, seeds=seeds)
    sampler = make_sampler(learner, [random_dataset(spec, 20_000)])
    env = make_env(options.task, replicas * options.episodes)

    def play() -> int:
        return int(evaluate(learner.policy(), env, seeds=seeds, horizon=options.steps).lengths.sum())

    return Side(f"lockstep, R = {replicas}", replicas, play, lambda: learner.update(sampler.next()))


def main(options: Options) -> int:
    """Measure and report."""
    if options.threads:
        torch.set_num_threads(options.threads)
    sides = [reference(options), *(ours(options, replicas) for replicas in options.replicas)]
    for side in sides:
        side.play()
        side.update()
    for _ in range(options.rounds):
        for side in sides:
            side.measure(options.updates)
    header = ["side", "R", "steps/s", "ratio", "evaluation %"]
    rows = [
        [s.name, s.replicas, f"{s.rate:.0f}", f"{s.rate / sides[0].rate:.2f}", f"{100 * s.share:.1f}"]
        for s in sides
    ]
    show(f"{options.task}, {torch.get_num_threads()} threads, torch {torch.__version__}", header, rows)
    threads = torch.get_num_threads()
    write_csv(options.output, ["task", "threads", *header], [[options.task, threads, *row] for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
