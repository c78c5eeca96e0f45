"""Two hosts: network namespaces with addresses of their own, joined by a real rendezvous of torchrun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.job import results
from tests.distributed.test_ranks import EXACT, ROOT, job

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(
        shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0,
        reason="network namespaces need root and iproute2",
    ),
]

ADDRESSES = {"twone": "10.77.0.1", "twtwo": "10.77.0.2"}


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    def ip(*words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words], check=check, capture_output=True)

    for name in ADDRESSES:
        ip("netns", "del", name, check=False)
    try:
        for name in ADDRESSES:
            ip("netns", "add", name)
        ip("link", "add", "vtwone", "type", "veth", "peer", "name", "vtwtwo")
        for name, address in ADDRESSES.items():
            ip("link", "set", f"v{name}", "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"v{name}")
            ip("-n", name, "link", "set", f"v{name}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield ADDRESSES
    finally:
        for name in ADDRESSES:
            ip("netns", "del", name, check=False)


def test_two_hosts_give_the_numbers_of_one_process(hosts: dict[str, str], tmp_path: Path) -> None:
    done = job(1, "same", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    started = []
    for place, name in enumerate(hosts):
        command = [
            "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
            "--node-rank", str(place), "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "hosts",
            "--rdzv-endpoint", f"{hosts['twone']}:29611", "--local-addr", hosts[name],
            "--rdzv-conf", f"is_host={int(place == 0)}",
            "-m", "tests.distributed.job", "same", str(tmp_path),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"v{name}"}
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    for one in started:
        _, words = one.communicate(timeout=120)
        assert one.returncode == 0, words[-2000:]
    (alone,) = results(tmp_path, "same", 1)
    for found in results(tmp_path, "same", 2):
        for name in EXACT:
            assert np.allclose(found[name], alone[name], rtol=1e-6, atol=1e-9), name
        assert found["about"]["ranks"] == 2
