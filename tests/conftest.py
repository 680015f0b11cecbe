"""One thread per process: the tests' products are small, and results then repeat on any machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
