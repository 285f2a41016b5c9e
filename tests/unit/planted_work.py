"""Work for the executors' tests, imported by name in worker processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa


class Double:
    """Doubles a number, and does to its worker what the shard says."""

    def __init__(self, *, folder="", refuse="", batch_tokens=None):
        if refuse:
            raise ValueError(refuse)
        self.folder = Path(folder)
        self.batch_tokens = batch_tokens

    def __call__(self, shard):
        number = shard["number"]
        note = f"{number} {os.getpid()}\n"
        with (self.folder / "log").open("a") as log:
            log.write(note)
        self.number = number
        getattr(self, shard.get("deed", "nothing"))()
        return pa.table({"double": [2 * number], "pid": [os.getpid()]})

    def nothing(self):
        pass

    def once(self):
        mark = self.folder / f"died-{self.number}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def bug(self):
        raise KeyError(f"no entry {self.number}")

    def refuse(self):
        raise ValueError(f"row {self.number} is not a row")

    def memory(self):
        raise MemoryError("host")

    def device_memory(self):
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")

    def library_memory(self):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")

    def driver_memory(self):
        raise RuntimeError("MPS backend out of memory (allocated: 9 GB)")

    def runtime_error(self):
        raise RuntimeError("some other failure")

    def sleep(self):
        time.sleep(60)

    def outlast_five(self):
        while len((self.folder / "log").read_text().splitlines()) < 6:
            time.sleep(0.01)

    def busy(self):
        while True:
            pass

    def chatter(self):
        sys.stdout.write("stray print\n")
        os.write(1, b"stray write\n")
        subprocess.run(["echo", "stray child"], check=True)
        assert sys.stdin.read() == "", "the work must not read its worker's orders"

    def interrupt(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    def ballast(self):
        self.held = bytearray(200_000_000)


class Environment:
    """Returns the variables its worker was started with."""

    def __call__(self, shard):
        return pa.table({name: [os.environ.get(name)] for name in shard["names"]})


class Large:
    """Returns many rows, among them null, and says which modules its worker has loaded."""

    def __call__(self, shard):
        n = shard["rows"]
        column = pa.array([None, *range(1, n)], pa.int64())
        return pa.table({"n": column}, metadata={"torch": str("torch" in sys.modules)})
