"""Reports of runs, pipelines and benchmarks: self-contained HTML pages."""
