"""One thread and one way to multiply matrices: the tests' products are small, and results repeat on any machine."""

from __future__ import annotations

import os

import torch

os.environ["MARLZOO_MATMUL"] = "highest"  # nothing is measured, here and in the processes that tests start

torch.set_num_threads(1)
