"""Evaluation of a learner during training, in the foreground or in a background thread.

Beside it a copy of the policy acts, on a GPU on a stream of its own, so that the updates are not held up. The numbers
are those of an evaluation at once.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch

from marlzoo.algorithm import Algorithm
from marlzoo.envs.base import BatchedEnv
from marlzoo.modules.policies import Policy
from marlzoo.replicas import derive
from marlzoo.training.cuda_graph import current
from marlzoo.training.evaluation import EpisodeResults, evaluate
from marlzoo.training.precision import products_in

Outcome = tuple[EpisodeResults, float]


class Evaluator:
    """Plays a learner's policy as it stands, one evaluation at a time.

    Args:
        algorithm: the learner.
        env: with E copies for each replica.
        horizon: limit of an episode; None: the task's.
        background_eval: play in a thread.
        clock: seconds so far.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        env: BatchedEnv,
        horizon: int | None,
        background_eval: bool,
        clock: Callable[[], float],
    ) -> None:
        self._algorithm = algorithm
        self._env = env
        self._horizon = horizon
        self._clock = clock
        self.background_eval = background_eval
        self._thread = ThreadPoolExecutor(1, "evaluation")  # starts with the first task
        self._stream = None
        if background_eval and algorithm.device.type == "cuda":
            with current(algorithm.device):
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def start(self) -> Callable[[], Outcome]:
        """Start an evaluation of the current policy; returns a callable that blocks until it finishes."""
        algorithm = self._algorithm
        seeds = [derive(seed, "evaluate", algorithm.updates) for seed in algorithm.seeds]
        with products_in(algorithm, None):
            if not self.background_eval:
                outcome = self._play(algorithm.policy(), seeds)
                return lambda: outcome
            policy = copy.deepcopy(algorithm.policy())
        if self._stream is not None:  # the copy must be there before it acts
            self._stream.wait_stream(torch.cuda.current_stream(algorithm.device))
        return self._thread.submit(self._aside, policy, seeds).result

    def _aside(self, policy: Policy, seeds: list[int]) -> Outcome:
        if self._stream is None:
            return self._play(policy, seeds)
        with contextlib.ExitStack() as stack:  # both are those of the thread
            stack.enter_context(current(self._algorithm.device))
            stack.enter_context(torch.cuda.stream(self._stream))
            return self._play(policy, seeds)

    def _play(self, policy: Policy, seeds: list[int]) -> Outcome:
        device = self._algorithm.device
        dtype = self._algorithm.dtype
        found = evaluate(policy, self._env, seeds=seeds, horizon=self._horizon, device=device, dtype=dtype)
        return found, self._clock()
