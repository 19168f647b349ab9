"""The family of algorithms side by side: on the diagnostic tasks, and on the gold reward of Reviews.

    python -m textgym.benchmarks.family diagnostic --out results.jsonl --table docs/…

Every run is a line of the results file, so a sweep can be split over several sittings.
"""
