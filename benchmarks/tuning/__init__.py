"""Equal tuning: the same number of settings for each algorithm, tried on development instances; one for all tasks."""
