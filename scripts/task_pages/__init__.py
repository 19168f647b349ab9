"""A Markdown page for every task: its description, its reward, and the scores of simple policies.

python -m scripts.task_pages --out docs/tasks
"""
