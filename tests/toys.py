"""The small synthetic task that methods are tested on; it is part of the package, for others' tests too."""

from marlzoo.testing.toys import HORIZON, ToyEnv, toy_dataset, toy_spec

__all__ = ["HORIZON", "ToyEnv", "toy_dataset", "toy_spec"]
