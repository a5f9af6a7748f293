"""What no code here may do: run code out of data, run a shell, keep Prefect's pickled results, call other machines.

Names are followed through aliases: ``import torch as t``, ``from torch import load as read``, ``getattr(torch, "load")``.
"""

import ast
from dataclasses import dataclass, field

PICKLING = "pickled data"
TEXT_AS_CODE = "text as code"
SHELL = "a shell"
RESULTS = "Prefect's results"
NETWORK = "the network"
TEMPORARY = "a guessable temporary name"
ASSERTION = "assert outside of tests"

MODULES = {
    **dict.fromkeys(
        ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"), PICKLING
    ),
    **dict.fromkeys(("torch.hub", "torch.jit", "torch.package", "torch.serialization", "pandas.io.pickle"), PICKLING),
}
"""Modules that may neither be imported nor used."""
CALLS = {
    **dict.fromkeys(("torch.load", "torch.save", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load"), PICKLING),
    **dict.fromkeys(("yaml.unsafe_load_all", "yaml.full_load_all", "numpy.lib.format.read_array"), PICKLING),
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "runpy.run_path", "runpy.run_module", "pandas.eval"), TEXT_AS_CODE),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), SHELL),
    **dict.fromkeys(("asyncio.create_subprocess_shell",), SHELL),
    "tempfile.mktemp": TEMPORARY,
}
"""Functions that may not be called, handed on or renamed."""
METHODS = {"to_pickle": PICKLING}
"""Methods of whatever object."""
YAML_LOADERS = {"SafeLoader", "CSafeLoader"}
WEB = (
    "requests",
    "urllib.request",
    "urllib3",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "telnetlib",
    "paramiko",
    "websockets",
    "websocket",
)
SOCKETS = ("socket", "http", "ssl", "socketserver", "xmlrpc", "asyncio")
BY_NAME = ("getattr", "importlib.import_module", "importlib.__import__")
"""Functions that find a module or function by a text."""


@dataclass(frozen=True)
class Scope:
    """What a file may do beside what all may: tests assert, and only the library has no sockets at all."""

    may_assert: bool = False
    modules: tuple[str, ...] = WEB


LIBRARY = Scope(modules=(*WEB, *SOCKETS))
ADAPTERS = Scope()
TESTS = Scope(may_assert=True)


def scope_of(path: str) -> Scope:
    """Say what a file may do, by its path in the repository."""
    room = path.partition("/")[0]
    return {"fedsilo": LIBRARY, "tests": TESTS}.get(room, ADAPTERS)


def found_in(text: str, scope: Scope = LIBRARY) -> list[tuple[int, str, str]]:
    """List what a file does that it may not: line, name, ban."""
    finder = _Finder(scope)
    finder.visit(ast.parse(text))
    return sorted(set(finder.found))


@dataclass
class _Finder(ast.NodeVisitor):
    """Walks a file; ``names`` is what each local name stands for."""

    scope: Scope
    names: dict[str, str] = field(default_factory=dict)
    found: list[tuple[int, str, str]] = field(default_factory=list)

    def visit_Import(self, node):
        for alias in node.names:
            self._module(node, alias.name)
            top = alias.name.partition(".")[0]
            self.names[alias.asname or top] = alias.name if alias.asname else top

    def visit_ImportFrom(self, node):
        if node.level:
            return
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self._module(node, whole)
            self._use(node, whole)
            self.names[alias.asname or alias.name] = whole

    def visit_Assign(self, node):
        whole = self._name(node.value)
        for target in node.targets:
            if whole and isinstance(target, ast.Name) and isinstance(node.value, ast.Attribute | ast.Name):
                self.names[target.id] = whole
        self.generic_visit(node)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self._use(node, self._name(node))

    def visit_Attribute(self, node):
        self._use(node, self._name(node))
        self._tell(node, node.attr, METHODS.get(node.attr))
        self.generic_visit(node)

    def visit_Assert(self, node):
        self._tell(node, "assert", None if self.scope.may_assert else ASSERTION)
        self.generic_visit(node)

    def visit_Call(self, node):
        name = self._name(node.func)
        if name in BY_NAME:
            self._found_by_name(node, name)
        if name in ("yaml.load", "yaml.load_all") and not self._safe_loader(node):
            self._tell(node, name, PICKLING)
        if name == "numpy.save" and not any(keyword.arg == "allow_pickle" for keyword in node.keywords):
            self._tell(node, name, PICKLING)  # it pickles objects unless it is told not to
        for keyword in node.keywords:
            self._option(node, keyword)
        self.generic_visit(node)

    def _option(self, node, keyword):
        off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
        if keyword.arg == "allow_pickle" and not off:
            self._tell(node, "allow_pickle", PICKLING)
        elif keyword.arg == "shell" and not off:
            self._tell(node, "shell", SHELL)
        elif (
            (keyword.arg == "persist_result" and not off)
            or keyword.arg in ("result_storage", "result_serializer")
            or (
                keyword.arg == "cache_policy" and (self._name(keyword.value) or "").rpartition(".")[2] not in ("NO_CACHE", "NONE")
            )
        ):
            self._tell(node, keyword.arg, RESULTS)

    def _found_by_name(self, node, name):
        last = node.args[-1] if name != "getattr" else (node.args[1:2] or [None])[0]
        if not isinstance(last, ast.Constant) or not isinstance(last.value, str):
            return
        if name == "getattr":
            whole = f"{self._name(node.args[0]) or ''}.{last.value}"
            self._use(node, whole.removeprefix("builtins."))
            self._tell(node, last.value, METHODS.get(last.value))
        else:
            self._module(node, last.value)

    def _safe_loader(self, node):
        given = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "Loader")]
        return any((self._name(loader) or "").rpartition(".")[2] in YAML_LOADERS for loader in given)

    def _name(self, node):
        """Write a name or a chain of attributes in full; None for anything else."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            before = self._name(node.value)
            return None if before is None else f"{before}.{node.attr}"
        return None

    def _module(self, node, name):
        """Look at a module that is imported, or at what is taken out of one."""
        for banned, ban in self._modules().items():
            if name == banned or name.startswith(f"{banned}."):
                self._tell(node, banned, ban)

    def _use(self, node, name):
        if name is None:
            return
        plain = name.removeprefix("builtins.")
        self._tell(node, plain, CALLS.get(plain))
        for module, ban in self._modules().items():
            if "." in module and plain.startswith(f"{module}."):
                self._tell(node, module, ban)

    def _modules(self):
        return MODULES | dict.fromkeys(self.scope.modules, NETWORK)

    def _tell(self, node, name, ban):
        if ban:
            self.found.append((node.lineno, name, ban))
