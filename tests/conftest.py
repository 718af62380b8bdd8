"""For all tests: offline, and two threads a process unless the environment says otherwise."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")  # before anything imports torch
