"""The demo: every Python file of the standard library as a task."""
