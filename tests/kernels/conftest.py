"""Poisoned memory and one thread for every kernel test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned():
    """torch.empty hands out NaN: a kernel that reads what it never wrote shows it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
