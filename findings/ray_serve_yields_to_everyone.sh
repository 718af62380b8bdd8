#!/usr/bin/env bash
# Ray 2.60.0: what answers HTTP under Ray Serve, the proxy and every replica, runs at a niceness of 15, though who started the cluster
# runs at 0. Beside one ordinary busy process a core, Linux gives it some 3 % of that core: with two such processes on two cores the
# first half of this script was seen to take 140 s, the second 20 s. Nothing says so in Serve's API or its logs.
# RAY_worker_niceness=0 in the environment of who starts the cluster is heeded.
set -euo pipefail
home=$(mktemp -d /tmp/rf.XXXX)
trap 'rm -rf "$home"' EXIT
cd "$home"
python3.11 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'ray[serve]==2.60.0'
cat > run.py <<'PY'
import logging
import os
import socket
import sys
from pathlib import Path

import ray
from ray import serve

wanted = int(sys.argv[1])
logging.getLogger("ray.serve").setLevel(logging.WARNING)


@serve.deployment
class Answer:
    def __call__(self) -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)


ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, _temp_dir=os.environ["TMPDIR"])
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
serve.start(proxy_location="HeadOnly", http_options={"port": port, "host": "127.0.0.1"})
replica = serve.run(Answer.bind()).remote().result()
of_driver = os.getpriority(os.PRIO_PROCESS, 0)
mine = str(os.environ["TMPDIR"]).encode()
proxies = [
    os.getpriority(os.PRIO_PROCESS, int(process.name))
    for process in Path("/proc").glob("[0-9]*")
    if b"ray::ProxyActor" in (process / "cmdline").read_bytes() and mine in (process / "environ").read_bytes()
]
serve.shutdown()
print("ray", ray.__version__, "driver", of_driver, "replica", replica, "proxies", proxies)
assert replica == of_driver + wanted, "CHANGED: the niceness of a replica"
assert proxies and set(proxies) == {of_driver + wanted}, "CHANGED: the niceness of the proxy"
PY
export RAY_USAGE_STATS_ENABLED=0 RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=300 TMPDIR="$home"
venv/bin/python run.py 15
RAY_worker_niceness=0 venv/bin/python run.py 0
