"""Allocator settings for programs that work on large CPU tensors."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_large_blocks() -> None:
    """Let this process keep the memory of freed tensors instead of mapping it afresh each time.

    By default glibc hands blocks of some megabytes back to the system at once, and the next tensor pays for a page fault
    every 4 KiB: convolutions and FFTs of images then run at half their speed or less. A setting of the whole process, so
    programs call it (the command line does) and the library never. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
