"""A Ray cluster on this machine that grows and shrinks: a head without CPUs, and workers of Ray's fake provider.

    python tests/cluster/growing.py FOLDER

Prints the address of its dashboard, and ends, with all of its processes, when its standard input does. A program of its own, so
that the interpreter which runs it is the one that the cluster has. FOLDER's path must be short: sockets' have 108 characters.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

MARK = "CAPSIEVE_CLUSTER"  # in the environment of every process of the cluster
WORKERS = {"cpu": {"CPU": 2}, "gpu": {"CPU": 2, "GPU": 1}}  # nobody looks whether there is a GPU
STORE_BYTES = 150 * 1024**2
IDLE_MINUTES = 0.15
HEAD_ID = "f" * 51 + "00000"  # of the head, as the fake provider knows it


def main(folder: Path) -> None:
    """Start, wait for the end of standard input, end."""
    mark = uuid.uuid4().hex
    os.environ |= {MARK: mark, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    # The second autoscaler, as `ray up` and KubeRay have it. The first one knows machines by their addresses, and these have
    # one between them: it would never find out that one is idle.
    os.environ |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_ID}
    os.environ["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = HEAD_ID
    os.environ["RAY_TMPDIR"] = str(folder)  # else the default cluster of this machine's user would become this one
    from ray.cluster_utils import Cluster
    from ray.util import get_node_ip_address

    gcs, dashboard = free_port(), free_port()
    config = folder / "cluster.json"
    config.write_text(json.dumps(autoscaler_config(f"{get_node_ip_address()}:{gcs}")))
    try:
        Cluster(
            initialize_head=True,
            head_node_args={
                "gcs_server_port": gcs,
                "dashboard_agent_listen_port": 0,  # its own is fixed, and another cluster of this machine may have it
                "num_cpus": 0,
                "num_gpus": 0,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": True,
                "dashboard_port": dashboard,
                "autoscaling_config": str(config),
            },
        )
        print(f"http://127.0.0.1:{dashboard}", flush=True)  # noqa: T201 it is a program
        sys.stdin.read()
    finally:
        end_all(mark)


def autoscaler_config(gcs_address: str) -> dict[str, Any]:
    """As `ray up` would write it, with both kinds of workers of ray_cluster.yaml, at most one of each."""
    types: dict[str, Any] = {
        name: {
            "resources": {**resources, "object_store_memory": STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 1,
        }
        for name, resources in WORKERS.items()
    }
    types["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "growing",
        "max_workers": len(WORKERS),
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 100,
        "docker": {},
        "provider": {
            "type": "external",  # "fake_multinode" would read a file that Ray's wheel lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "head_node": {},
        "worker_nodes": {},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_all(mark: str) -> None:
    """Kill every process of this cluster but this one; workers of the fake provider outlive the head otherwise."""
    while found := list(marked(mark)):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def marked(mark: str) -> Iterator[int]:
    """Processes, other than this one and zombies, that inherited the mark."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(folder.name) != os.getpid() and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
