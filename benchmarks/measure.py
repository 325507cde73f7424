"""CPU seconds and peak memory of a call in this process."""

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_STATUS = Path("/proc/self/status")


def cpu_seconds(call: Callable[[], Result]) -> tuple[float, Result]:
    """CPU time of the process, which a busy machine disturbs less than time on the wall."""
    gc.collect()
    before = time.process_time()
    result = call()
    return time.process_time() - before, result


def peak_megabytes(call: Callable[[], Result]) -> tuple[float, Result]:
    """How far resident memory rises above what it was before the call."""
    gc.collect()
    _give_back()
    before = _reset_peak()
    result = call()
    return max(0.0, _peak() - before), result


def _give_back() -> None:
    """Freed memory that the allocator holds would hide part of the call's own."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)


def _reset_peak() -> float:
    """Forget earlier peaks where Linux lets us; resident megabytes now, or the peak elsewhere."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    if _STATUS.exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _status(field: str) -> float:
    lines = _STATUS.read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024 / 1e6
