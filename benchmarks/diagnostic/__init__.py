"""How close an algorithm comes to the exact optimum of each diagnostic task.

python -m textgym.benchmarks.diagnostic --seeds 5 --jobs 2
"""
