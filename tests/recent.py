"""The times of records that are written by tests into topics with the usual retention: not so old that they go."""

import time

RECENT_MS = time.time_ns() // 1_000_000 - 3_600_000
