"""Real vLLM engines from one import: vLLM is imported once, each engine is a fork of this process.

Started one by one an engine is three processes that import for 20 s each. Here an engine is two:
the API server and the core, which computes itself.

Says `engine NAME PID` when it forked one, which leads a process group, and `ended NAME STATUS`. One with
`again` is then forked once more, as a container is restarted: `again NAME PID`. When this process ends,
however it ends, all of them do.

usage: fleet.py '{"engines": [{"name": "a", "host": "127.0.0.2", "args": ["serve", ...], "again": false}]}'
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time

# Whatever an engine would import after the fork, it would import alone.
PRELOADED = (
    "vllm.entrypoints.cli.main", "vllm.entrypoints.cli.serve", "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core", "vllm.v1.engine.async_llm", "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner", "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.models.llama", "transformers.models.llama", "vllm.distributed.kv_events",
    "vllm.distributed.kv_transfer.kv_connector.v1.nixl", "nixl_cu13._api",
)
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def fork_with_what_is_imported():
    """vLLM starts anew whatever it starts on a CPU, and computes in yet another process, which spins."""
    from vllm.model_executor.models import registry
    from vllm.platforms.cpu import CpuPlatform
    from vllm.utils import system_utils

    update = CpuPlatform.check_and_update_config.__func__

    def updated(cls, config):
        update(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        config.parallel_config.distributed_executor_backend = "uni"

    CpuPlatform.check_and_update_config = classmethod(updated)
    system_utils._maybe_force_spawn = lambda: None
    # A model is looked at in a process of its own, so that CUDA stays untouched.
    registry._run_in_subprocess = lambda look: look()


def let_nixl_rest():
    """NIXL's progress thread takes a whole core; without it progress is made when it is asked for."""
    import nixl_cu13._api as nixl

    make = nixl.nixlBind.nixlAgent

    def agent(name, config):
        config.useProgThread = False
        return make(name, config)

    nixl.nixlBind.nixlAgent = agent


def bind_to(host):
    """In a pod `*` is the pod's address; here it must not be everyone's."""
    import zmq

    bind = zmq.Socket.bind
    zmq.Socket.bind = lambda self, address: bind(self, address.replace("//*", f"//{host}"))


def serve(engine):
    os.setpgid(0, 0)
    os.environ.update(engine.get("env", {}))
    bind_to(engine["host"])
    sys.argv = ["vllm", *engine["args"]]
    from vllm.entrypoints.cli.main import main as vllm

    vllm()


def fork(word, engine, running):
    pid = os.fork()
    if pid == 0:
        serve(engine)
        os._exit(0)
    running[pid] = engine
    print(word, engine["name"], pid, flush=True)


def main(engines):
    os.register_at_fork(after_in_child=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    start = time.monotonic()
    for module in PRELOADED:
        importlib.import_module(module)
    fork_with_what_is_imported()
    let_nixl_rest()
    print(f"imported in {time.monotonic() - start:.1f} s", flush=True)
    running = {}
    for engine in engines:
        fork("engine", engine, running)
    while running:
        pid, status = os.wait()
        engine = running.pop(pid, None)
        if engine is None:
            continue
        print("ended", engine["name"], status, flush=True)
        if engine.get("again"):
            fork("again", engine, running)


if __name__ == "__main__":
    main(json.loads(sys.argv[1])["engines"])
