"""Speed of collecting and learning from episodes, compared with other libraries.

Run ``python -m textgym.benchmarks.throughput``. Every number is a ratio of times that were measured in turns in one
run, since a machine's speed changes from minute to minute.
"""
