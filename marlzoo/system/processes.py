"""Whether a process is alive, on every system without a package for it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

# Of Windows' documentation of OpenProcess, GetExitCodeProcess and GetLastError.
QUERY_LIMITED_INFORMATION = 0x1000
STILL_ACTIVE = 259
INVALID_PARAMETER = 87  # there is no such process


def alive(process: int) -> bool:
    """Whether the process with this id is alive; True if that cannot be determined."""
    if sys.platform == "win32":
        return alive_on_windows(
            process, ctypes.WinDLL("kernel32", use_last_error=True), ctypes.get_last_error
        )
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there and belongs to somebody else
    return True


def alive_on_windows(process: int, kernel: Any, last_error: Callable[[], int]) -> bool:
    """The same on Windows, where signal 0 would end the process.

    Args:
        process: its number.
        kernel: the library ``kernel32``.
        last_error: tells why its last call failed.
    """
    kernel.OpenProcess.restype = ctypes.c_void_p  # a handle is as wide as a pointer
    kernel.GetExitCodeProcess.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    kernel.CloseHandle.argtypes = (ctypes.c_void_p,)
    handle = kernel.OpenProcess(QUERY_LIMITED_INFORMATION, False, process)
    if not handle:
        return last_error() != INVALID_PARAMETER  # else it is there and belongs to somebody else
    try:
        code = ctypes.c_ulong()
        told = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        return not told or code.value == STILL_ACTIVE
    finally:
        kernel.CloseHandle(handle)
