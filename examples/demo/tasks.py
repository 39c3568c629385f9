"""The demo's task: read one Python source file, parse it, measure it."""

from __future__ import annotations

import ast
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from leveret import App, RetryPolicy, TaskContext

app = App("demo")

BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.With,
    ast.AsyncWith,
    ast.Assert,
    ast.comprehension,
    ast.match_case,
)


@dataclass
class SourceFacts:
    """What the task finds out about one file."""

    path: str
    lines: int
    functions: int
    classes: int
    complexity: int
    digest: str
    seconds: float
    attempts: int


# A file that cannot be read now may be readable in a moment; one that is not Python never will be.
@app.task(bind=True, retry=RetryPolicy(max=5, on=(OSError,), backoff_s=0.5, jitter=False))
def analyse(self: TaskContext, path: str) -> SourceFacts:
    """Parse a file and count; complexity is 1 for each function and 1 for each branch."""
    started_s = time.perf_counter()
    source = Path(path).read_bytes()
    tree = ast.parse(source, filename=path)
    functions = classes = branches = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            functions += 1
        elif isinstance(node, ast.ClassDef):
            classes += 1
        elif isinstance(node, ast.BoolOp):
            branches += len(node.values) - 1
        elif isinstance(node, BRANCHES):
            branches += 1
    return SourceFacts(
        path=path,
        lines=source.count(b"\n"),
        functions=functions,
        classes=classes,
        complexity=functions + branches,
        digest=hashlib.sha256(source).hexdigest()[:8],
        seconds=time.perf_counter() - started_s,
        attempts=self.request.retries + 1,
    )
