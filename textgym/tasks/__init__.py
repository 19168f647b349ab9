"""Tasks: each one file. The table says which function makes a task; nothing is imported before it is asked for."""

TASKS: dict[str, str] = {
    "Reviews": "textgym.tasks.reviews:reviews",
}
