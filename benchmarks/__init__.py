"""cograd against hand-written loops: ratios of medians within one run.

``python -m benchmarks`` and ``python -m benchmarks.NAME`` start anew with freed memory kept by the process. Whether
blocks go back to the system is luck, and costs more than what is compared.
"""

import os
import sys

KEPT = {"MALLOC_TRIM_THRESHOLD_": "10000000000", "MALLOC_MMAP_THRESHOLD_": "10000000000"}

# malloc reads them when a process starts; argv[0] is "-m" while the package of a command is imported
if sys.platform == "linux" and sys.argv[0] == "-m" and not KEPT.keys() <= os.environ.keys():
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], KEPT | os.environ)
