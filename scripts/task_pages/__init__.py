"""A page for every task, as Markdown: what it asks, what it pays, and what simple policies score in it.

python -m scripts.task_pages --out docs/tasks
"""
