"""How fast episodes are collected and learned from, beside what others would use for it.

Run ``python -m textgym.benchmarks.throughput``. Every number is a ratio of times that were measured in turns in one
run, since a machine's speed changes from minute to minute.
"""
