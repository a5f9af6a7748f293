"""The architecture is a test: who may import whom, and who may start other programs."""

import ast
import subprocess
import sys

PHASES = (
    "phantoms",
    "ingest",
    "prepare",
    "federate",
    "inside",
    "outside",
    "report",
    "compare",
    "run",
    "audit",
    "sbom",
    "approve",
    "promote",
    "rollback",
    "champion",
    "gate",
)
HEAVY = {
    "torch",
    "monai",
    "numpy",
    "pandas",
    "great_expectations",
    "matplotlib",
    "scipy",
    "pyarrow",
    "nibabel",
    "pydicom",
    "SimpleITK",
}


def sources(repository, *packages):
    return [path for package in packages for path in sorted((repository / package).rglob("*.py"))]


def test_imports_go_down_only(repository):
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))",
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_command_lines_answer_before_heavy_packages_are_imported(repository):
    modules = ", ".join(f"flows.{phase}" for phase in PHASES)
    code = f"import {modules}, sys; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


def test_one_module_runs_dvc_and_one_git(repository):
    found = [
        path.relative_to(repository).as_posix()
        for path in sources(repository, "flows", "tasks", "fedsilo")
        if any(isinstance(node, ast.Constant) and node.value in ("dvc", "git") for node in ast.walk(ast.parse(path.read_text())))
    ]

    assert found == ["tasks/repro.py", "tasks/versions.py"]
