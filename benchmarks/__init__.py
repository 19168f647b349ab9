"""Experiments that compare algorithms, the code that runs them, and the analysis of their results."""

if __name__ != "textgym.benchmarks":
    raise ImportError("import this package as textgym.benchmarks: under its bare name every class would exist twice")
