"""The memory of training steps is not cleared anew by the system at each step."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import numpy as np
from cmdtrack_ros.training.memory import keep_freed_memory
keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step(): np.ones(8 << 20).sum()
step()
before = faults()
for _ in range(5): step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_serves_the_next_step():
    ran = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 1000  # 64 MB are 16,384 pages a step
