"""Equal tuning: every algorithm tries as many settings on development instances, and keeps one for all tasks."""
